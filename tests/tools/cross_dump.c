/* tests/tools/cross_dump.c - cross-attention of one block in either form, forward and backward.
 *
 *     cross_dump plain|folded f32|bf16 DEVICE HEADS DROPOUT INPUT.safetensors OUTPUT.safetensors
 *
 * INPUT    v (B,N,d) vision tokens before ln2; x (B,K,d) queries after it; d_y (B,K,d); weight (3d,d), bias (3d):
 *          in_proj; gamma, beta (d): ln2's
 * OUTPUT   y (B,K,d) before out_proj; d_x, d_v, d_weight, d_bias, d_gamma, d_beta, the last two by the vision tokens;
 *          kept (B,heads,K,N) U8: what dropout kept
 *
 * tests/oracle/algebra.py compares it with float64. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/models/safetensors.h"
#include "common/random.h"
#include "worker/model/cross.h"

enum { SEED = 5, STEP = 7, SITE = 1, OUTPUTS = 8 };

struct dump {
    struct ops *ops;
    struct params params;
    struct arena arena;
    struct safetensors *input;
    struct cross cross;
    struct cross_block block;
    struct cross_shape shape;
    int64_t B, weight, bias; /* offsets of in_proj */
    float drop;
    struct tensor out[OUTPUTS]; /* data are owned */
    size_t out_count;
};

static void dump_close(struct dump *t)
{
    for (size_t i = 0; i < t->out_count; i++)
        free((void *)(uintptr_t)t->out[i].data);
    arena_close(&t->arena);
    cross_block_close(&t->block);
    if (t->cross.form)
        cross_close(&t->cross);
    params_close(&t->params);
    safetensors_free(&t->input);
    ops_free(&t->ops);
}

/* -- input -- */

static int put_param(struct dump *t, const char *name, int64_t offset, int rank, int64_t rows,
                     int64_t columns, struct bl_error *err)
{
    const struct tensor *found;
    const int64_t dims[2] = {rows, columns};
    BL_TRY(safetensors_expect(t->input, name, rank, dims, &found, err));
    t->ops->copy_in(t->ops, t->params.view.values + offset, found->data, found->size_bytes);
    return 0;
}

static int open_params(struct dump *t, const struct cross_form *form, struct bl_error *err)
{
    struct params *p = &t->params;
    const int64_t d = t->shape.width;
    const struct param_init zero = {INIT_CONSTANT, 0};
    BL_TRY(cross_open(&t->cross, p, &t->shape, form, err));
    t->weight = params_tensor(p, CAPTIONER_QFORMER, "weight", "", 2, 3 * d, d, zero);
    t->bias = params_tensor(p, CAPTIONER_QFORMER, "bias", "", 1, 3 * d, 0, zero);
    BL_TRY(cross_declare(&t->cross, p, &t->block, t->weight, t->bias, err));
    params_norm(p, CAPTIONER_QFORMER, "ln2", &t->block.norm, d);
    BL_TRY(params_build(p, err));
    BL_TRY(put_param(t, "weight", t->weight, 2, 3 * d, d, err));
    BL_TRY(put_param(t, "bias", t->bias, 1, 3 * d, 0, err));
    BL_TRY(put_param(t, "gamma", t->block.norm.weight, 1, d, 0, err));
    BL_TRY(put_param(t, "beta", t->block.norm.bias, 1, d, 0, err));
    params_refresh(p);
    return t->ops->sync(t->ops, err);
}

static int take_act(struct dump *t, const char *name, act **ret, struct bl_error *err)
{
    const struct tensor *found;
    float *device;
    BL_TRY(safetensors_expect(t->input, name, 3, (const int64_t[]){t->B, -1, -1}, &found, err));
    int64_t count = found->dims[0] * found->dims[1] * found->dims[2];
    BL_TRY(arena_act(&t->arena, count, ret, err));
    BL_TRY(arena_f32_from(&t->arena, found->data, count, &device, err));
    t->ops->act_from_f32(t->ops, *ret, device, count);
    return 0;
}

/* -- output -- */

static void *add_output(struct dump *t, const char *name, enum bl_dtype dtype, int rank,
                        const int64_t *dims)
{
    struct tensor *tensor = &t->out[t->out_count++];
    BL_ASSERT_CMP(t->out_count, <=, OUTPUTS);
    *tensor = (struct tensor){.name = name, .dtype = dtype, .rank = rank};
    tensor->size_bytes = bl_dtype_bytes(dtype);
    for (int i = 0; i < rank; i++) {
        tensor->dims[i] = dims[i];
        tensor->size_bytes *= (size_t)dims[i];
    }
    void *data = malloc(tensor->size_bytes);
    BL_ASSERT(data);
    tensor->data = data;
    return data;
}

static int put_act(struct dump *t, const char *name, const act *x, int64_t rows,
                   struct bl_error *err)
{
    const int64_t d = t->shape.width, count = t->B * rows * d;
    float *host = add_output(t, name, BL_F32, 3, (const int64_t[]){t->B, rows, d}), *device;
    BL_TRY(arena_f32(&t->arena, count, &device, err));
    t->ops->act_to_f32(t->ops, device, x, count);
    t->ops->copy_out(t->ops, host, device, (size_t)count * sizeof *host);
    return 0;
}

static void put_grad(struct dump *t, const char *name, int64_t offset, int rank, int64_t rows,
                     int64_t columns)
{
    void *host = add_output(t, name, BL_F32, rank, (const int64_t[]){rows, columns});
    t->ops->copy_out(t->ops, host, t->params.view.grads + offset,
                     t->out[t->out_count - 1].size_bytes);
}

/* As ops.h says of a dropout's bits. */
static void put_kept(struct dump *t)
{
    const int64_t per_sample = t->shape.heads * t->shape.queries * t->shape.vision_tokens;
    uint8_t *kept = add_output(
        t, "kept", BL_U8, 4,
        (const int64_t[]){t->B, t->shape.heads, t->shape.queries, t->shape.vision_tokens});
    for (int64_t b = 0; b < t->B; b++)
        for (int64_t i = 0; i < per_sample; i++) {
            uint32_t words[4];
            bl_draw(SEED, BL_RANDOM_DROPOUT, (uint64_t)i / 4 | (uint64_t)SITE << 32,
                    (uint32_t)b | (uint64_t)STEP << 32, words);
            kept[b * per_sample + i] = bl_unit_f32(words[i % 4]) >= t->drop;
        }
}

/* -- the block -- */

static int compute(struct dump *t, struct bl_error *err)
{
    const struct cross_form *form = t->cross.form;
    const int64_t d = t->shape.width, R = t->B * t->shape.queries;
    const int64_t Rv = t->B * t->shape.vision_tokens;
    struct cross_saved saved;
    struct sequences queries;
    act *v, *x, *d_y, *y, *d_x, *d_v;
    int32_t positions[64];
    BL_ASSERT_CMP(t->B, <=, 64);
    for (int32_t b = 0; b < t->B; b++)
        positions[b] = b;
    struct ops_dropout dropout = {.p = t->drop, .seed = SEED, .step = STEP, .site = SITE};
    BL_TRY(arena_i32_from(&t->arena, positions, t->B, &dropout.positions, err));
    BL_TRY(take_act(t, "v", &v, err));
    BL_TRY(take_act(t, "x", &x, err));
    BL_TRY(take_act(t, "d_y", &d_y, err));
    BL_TRY(arena_act(&t->arena, R * d, &y, err));
    BL_TRY(arena_act(&t->arena, R * d, &d_x, err));
    BL_TRY(arena_act(&t->arena, Rv * d, &d_v, err));
    BL_TRY(sequences_uniform(&t->arena, t->B, t->shape.queries, &queries, err));
    BL_TRY(cross_begin(&t->cross, &t->arena, v, &queries, err));
    BL_TRY(form->take(&t->cross, &t->arena, &saved, err));
    BL_TRY(form->forward(&t->cross, &t->arena, &t->block, y, x, &saved, &dropout, err));
    BL_TRY(form->begin_backward(&t->cross, &t->arena, err));
    BL_TRY(form->backward(&t->cross, &t->arena, &t->block, d_x, d_v, false, d_y, y, x, &saved,
                          &dropout, err));
    BL_TRY(form->end_backward(&t->cross, &t->arena, d_v, err));
    BL_TRY(put_act(t, "y", y, t->shape.queries, err));
    BL_TRY(put_act(t, "d_x", d_x, t->shape.queries, err));
    BL_TRY(put_act(t, "d_v", d_v, t->shape.vision_tokens, err));
    put_grad(t, "d_weight", t->weight, 2, 3 * d, d);
    put_grad(t, "d_bias", t->bias, 1, 3 * d, 0);
    put_grad(t, "d_gamma", t->block.norm.weight, 1, d, 0);
    put_grad(t, "d_beta", t->block.norm.bias, 1, d, 0);
    put_kept(t);
    return t->ops->sync(t->ops, err);
}

static int dump(char **argv, struct bl_error *err)
{
    __attribute__((cleanup(dump_close))) struct dump t = {.drop = strtof(argv[5], NULL)};
    const struct cross_form *form = strcmp(argv[1], "plain") == 0 ? &cross_plain : &cross_folded;
    struct ops_device device;
    const struct tensor *v, *x;
    BL_TRY(ops_device_choose(argv[3], &device, err));
    BL_TRY(ops_open(&device, strcmp(argv[2], "f32") == 0 ? OPS_F32 : OPS_BF16, 1, &t.ops, err));
    t.params.ops = t.arena.ops = t.ops;
    BL_TRY(safetensors_open(argv[6], &t.input, err));
    BL_TRY(safetensors_expect(t.input, "v", 3, (const int64_t[]){-1, -1, -1}, &v, err));
    BL_TRY(safetensors_expect(t.input, "x", 3, (const int64_t[]){v->dims[0], -1, v->dims[2]}, &x,
                              err));
    t.B = v->dims[0];
    t.shape = (struct cross_shape){x->dims[1], atoi(argv[4]), v->dims[1], v->dims[2]};
    if (t.shape.heads < 1 || t.shape.width % t.shape.heads)
        return bl_fail(err, BL_EUSAGE, "expected heads that divide the width");
    BL_TRY(open_params(&t, form, err));
    BL_TRY(compute(&t, err));
    return safetensors_write(argv[7], t.out, t.out_count, NULL, err);
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    if (argc != 8)
        bl_fail(&err, BL_EUSAGE,
                "usage: cross_dump plain|folded f32|bf16 DEVICE HEADS DROPOUT INPUT OUTPUT");
    else
        dump(argv, &err);
    if (!err.code)
        return 0;
    char line[1600];
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "cross_dump: %s\n", line);
    return bl_error_exit_code(err.code);
}
