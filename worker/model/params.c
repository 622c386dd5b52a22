/* worker/model/params.c - trainable tensors: declared one by one, kept in two flat buffers, drawn
 * by Philox, written and read under the original notebooks' names. */
#include "worker/model/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/random.h"

#define ALIGN 16 /* elements: each tensor starts at a multiple of 64 bytes */

/* -- declaring -- */

static void *grown(struct params *p, void *list, int64_t count, size_t element)
{
    void *more = p->no_memory ? NULL : realloc(list, (size_t)(count + 1) * element);
    if (!more)
        p->no_memory = true;
    return more;
}

int64_t params_tensor(struct params *p, enum captioner_file file, const char *at, const char *name,
                      int rank, int64_t rows, int64_t columns, struct param_init init)
{
    struct captioner_params *view = &p->view;
    void *list = grown(p, p->list, view->tensors, sizeof *p->list);
    if (list)
        p->list = list;
    void *inits = grown(p, p->init, view->tensors, sizeof *p->init);
    if (inits)
        p->init = inits;
    if (p->no_memory)
        return 0;
    struct captioner_param *param = &p->list[view->tensors];
    *param = (struct captioner_param){
        .file = file,
        .rank = rank,
        .dims = {rows, columns},
        .offset = view->count,
        .count = rank == 2 ? rows * columns : rows,
        .matrix = rank == 2 && init.kind == INIT_UNIFORM,
    };
    int length = snprintf(param->name, sizeof param->name, "%s%s", at, name);
    BL_ASSERT_CMP(length, <, (int)sizeof param->name);
    p->init[view->tensors++] = init;
    view->count += (param->count + ALIGN - 1) / ALIGN * ALIGN;
    return param->offset;
}

void params_norm(struct params *p, enum captioner_file file, const char *at,
                 struct trained_norm *ret, int64_t D)
{
    ret->D = D;
    ret->weight =
        params_tensor(p, file, at, ".weight", 1, D, 0, (struct param_init){INIT_CONSTANT, 1});
    ret->bias = params_tensor(p, file, at, ".bias", 1, D, 0, (struct param_init){INIT_CONSTANT, 0});
}

void params_linear(struct params *p, enum captioner_file file, const char *at,
                   struct trained_linear *ret, int64_t N, int64_t K)
{
    struct param_init init = {INIT_UNIFORM, (float)(1 / sqrt((double)K))};
    int64_t weight = params_tensor(p, file, at, ".weight", 2, N, K, init);
    int64_t bias = params_tensor(p, file, at, ".bias", 1, N, 0, init);
    params_linear_at(p, ret, weight, bias, N, K);
}

void params_linear_at(struct params *p, struct trained_linear *ret, int64_t weight, int64_t bias,
                      int64_t N, int64_t K)
{
    *ret = (struct trained_linear){weight, bias, N, K, NULL};
    void *linears = grown(p, p->linears, p->linears_count, sizeof *p->linears);
    if (!linears)
        return;
    p->linears = linears;
    p->linears[p->linears_count++] = ret;
}

int params_build(struct params *p, struct bl_error *err)
{
    struct ops *ops = p->ops;
    if (p->no_memory)
        return bl_fail(err, BL_ENOMEM, "no memory for the list of parameters");
    size_t bytes = (size_t)p->view.count * sizeof(float);
    void *values, *grads;
    p->view.at = p->list;
    BL_TRY(ops->alloc(ops, bytes, &values, err));
    p->view.values = values;
    BL_TRY(ops->alloc(ops, bytes, &grads, err));
    p->view.grads = grads;
    ops->zero(ops, values, bytes);
    ops->zero(ops, grads, bytes);
    for (int64_t i = 0; i < p->linears_count; i++) {
        struct trained_linear *l = p->linears[i];
        BL_TRY(ops->matrix_trainable(ops, &l->matrix, p->view.values + l->weight, l->N, l->K, err));
    }
    return 0;
}

void params_close(struct params *p)
{
    for (int64_t i = 0; i < p->linears_count; i++)
        if (p->linears[i]->matrix)
            p->ops->matrix_free(p->ops, &p->linears[i]->matrix);
    if (p->ops) {
        p->ops->release(p->ops, p->view.values);
        p->ops->release(p->ops, p->view.grads);
    }
    free(p->list);
    free(p->init);
    free(p->linears);
    *p = (struct params){0};
}

/* -- values -- */

/* Element i takes word i % 4 of draw i / 4; a normal one takes the pair (i & ~1, i | 1) (Box &
 * Muller 1958). */
static void draw_tensor(float *ret, const struct captioner_param *param, struct param_init init,
                        uint64_t seed)
{
    uint64_t key = bl_mix64(seed, bl_hash_name(param->name));
    uint32_t words[4] = {0};
    for (int64_t i = 0; i < param->count; i++) {
        if (i % 4 == 0)
            bl_draw(key, BL_RANDOM_INIT, (uint64_t)i / 4, 0, words);
        if (init.kind == INIT_CONSTANT) {
            ret[i] = init.value;
        } else if (init.kind == INIT_UNIFORM) {
            ret[i] = (2 * bl_unit_f32(words[i % 4]) - 1) * init.value;
        } else {
            double radius = sqrt(-2 * log(1 - (double)bl_unit_f32(words[i % 4 & ~1])));
            double angle = 2 * M_PI * (double)bl_unit_f32(words[i % 4 | 1]);
            ret[i] = (float)(radius * (i % 2 ? sin(angle) : cos(angle)));
        }
    }
}

int params_init(const struct params *p, uint64_t seed, struct bl_error *err)
{
    const struct captioner_params *view = &p->view;
    bl_autofree float *host = calloc((size_t)view->count, sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld initial values", (long long)view->count);
    for (int64_t i = 0; i < view->tensors; i++)
        draw_tensor(host + view->at[i].offset, &view->at[i], p->init[i], seed);
    p->ops->copy_in(p->ops, view->values, host, (size_t)view->count * sizeof *host);
    return 0;
}

void params_refresh(const struct params *p)
{
    for (int64_t i = 0; i < p->linears_count; i++)
        p->ops->matrix_refresh(p->ops, p->linears[i]->matrix);
}

/* -- files -- */

static struct tensor as_tensor(const struct captioner_param *param, const float *host)
{
    return (struct tensor){
        .name = param->name,
        .dtype = BL_F32,
        .rank = param->rank,
        .dims = {param->dims[0], param->dims[1]},
        .data = host + param->offset,
        .size_bytes = (size_t)param->count * sizeof(float),
    };
}

int captioner_params_write(const struct captioner_params *params, enum captioner_file file,
                           const char *path, const float *host, const char *const *metadata,
                           struct bl_error *err)
{
    bl_autofree struct tensor *tensors = calloc((size_t)params->tensors, sizeof *tensors);
    if (!tensors)
        return bl_fail(err, BL_ENOMEM, "no memory for a list of tensors");
    size_t count = 0;
    for (int64_t i = 0; i < params->tensors; i++)
        if (params->at[i].file == file)
            tensors[count++] = as_tensor(&params->at[i], host);
    return safetensors_write(path, tensors, count, metadata, err);
}

static const struct captioner_param *find_param(const struct captioner_params *params,
                                                enum captioner_file file, const char *name)
{
    for (int64_t i = 0; i < params->tensors; i++)
        if (params->at[i].file == file && strcmp(params->at[i].name, name) == 0)
            return &params->at[i];
    return NULL;
}

int captioner_params_read(const struct captioner_params *params, enum captioner_file file,
                          const char *path, float *host, struct bl_error *err)
{
    bl_auto(safetensors) struct safetensors *source = NULL;
    BL_TRY(safetensors_open(path, &source, err));
    for (size_t i = 0; i < safetensors_count(source); i++) {
        const struct tensor *tensor = safetensors_at(source, i);
        if (find_param(params, file, tensor->name))
            continue;
        bl_fail(err, BL_EFORMAT, "found a tensor that the configured model does not have");
        bl_error_key(err, "tensor \"%s\"", tensor->name);
        bl_error_remedy(err, "use the configuration that the checkpoint was trained with");
        return bl_error_file(err, path);
    }
    for (int64_t i = 0; i < params->tensors; i++) {
        const struct captioner_param *param = &params->at[i];
        if (param->file != file)
            continue;
        const struct tensor *tensor;
        BL_TRY(safetensors_expect(source, param->name, param->rank, param->dims, &tensor, err));
        BL_TRY(tensor_to_f32(tensor, 0, (size_t)param->count, host + param->offset, err));
    }
    return 0;
}

/* -- layers -- */

void norm_forward(const struct params *p, const struct trained_norm *norm, act *y, float *saved,
                  const act *x, int64_t R)
{
    const float *values = p->view.values;
    p->ops->layernorm_forward(p->ops, y, saved, x, values + norm->weight, values + norm->bias, R,
                              norm->D, TRAINED_NORM_EPS);
}

void norm_backward(const struct params *p, const struct trained_norm *norm, act *d_x,
                   const act *d_y, const act *x, const float *saved, int64_t R, bool accumulate)
{
    float *grads = p->view.grads;
    p->ops->layernorm_backward(p->ops, d_x, grads + norm->weight, grads + norm->bias, d_y, x, saved,
                               p->view.values + norm->weight, R, norm->D, accumulate);
}

void linear_forward(const struct params *p, const struct trained_linear *linear, act *y,
                    act *saved_pre, const act *x, int64_t R, enum ops_epilogue epilogue)
{
    p->ops->linear_forward(p->ops, y, saved_pre, x, linear->matrix, p->view.values + linear->bias,
                           R, epilogue);
}

void linear_backward(const struct params *p, const struct trained_linear *linear, act *d_x,
                     const act *d_y, const act *x, int64_t R)
{
    float *grads = p->view.grads;
    if (d_x)
        p->ops->linear_backward_input(p->ops, d_x, d_y, linear->matrix, R, false);
    p->ops->linear_backward_weight(p->ops, grads + linear->weight, grads + linear->bias, d_y, x, R,
                                   linear->N, linear->K);
}
