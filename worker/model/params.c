/* worker/model/params.c - trainable tensors: declared one by one, kept in two flat buffers, drawn
 * by Philox, written and read under the original notebooks' names. */
#include "worker/model/params.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/progress.h"
#include "common/random.h"
#include "common/size.h"

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
    dev_void *values, *grads;
    p->view.at = p->list;
    BL_TRY(ops_alloc_zero(ops, bytes, &values, err));
    p->view.values = values;
    BL_TRY(ops_alloc_zero(ops, bytes, &grads, err));
    p->view.grads = grads;
    p->matrices = calloc((size_t)p->linears_count + 1, sizeof *p->matrices);
    if (!p->matrices)
        return bl_fail(err, BL_ENOMEM, "no memory for the list of matrices");
    for (int64_t i = 0; i < p->linears_count; i++) {
        struct trained_linear *l = p->linears[i];
        BL_TRY(ops->matrix_trainable(ops, &l->matrix, p->view.values + l->weight, l->N, l->K, err));
        p->matrices[i] = l->matrix;
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
    free(p->matrices);
    *p = (struct params){0};
}

/* -- values -- */

/* Elements drawn by one thread at a time, and copied to the device at a time. */
enum { DRAW_BLOCK = 1 << 16, DRAW_PIECE = 1 << 22 };

/* Elements [first, first + count) of a tensor; first is a multiple of 4. Element i takes word i % 4 of
 * draw i / 4; a normal one takes the pair (i & ~1, i | 1) (Box & Muller 1958). */
static void draw_block(float *ret, uint64_t key, struct param_init init, int64_t first,
                       int64_t count)
{
    uint32_t words[4] = {0};
    for (int64_t i = 0; i < count; i++) {
        if (i % 4 == 0)
            bl_draw(key, BL_RANDOM_INIT, (uint64_t)(first + i) / 4, 0, words);
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

/* host (DRAW_PIECE). An element's value depends on its index alone, so the blocks may be anyone's. */
static void draw_tensor(struct ops *ops, dev_f32 *values, float *host,
                        const struct captioner_param *param, struct param_init init, uint64_t seed)
{
    uint64_t key = bl_mix64(seed, bl_hash_name(param->name));
    for (int64_t at = 0; at < param->count; at += DRAW_PIECE) {
        int64_t count = bl_min(DRAW_PIECE, param->count - at);
#pragma omp parallel for num_threads(count > DRAW_BLOCK ? omp_get_num_procs() : 1)
        for (int64_t i = 0; i < count; i += DRAW_BLOCK)
            draw_block(host + i, key, init, at + i, bl_min(DRAW_BLOCK, count - i));
        ops->copy_in(ops, values + param->offset + at, host, (size_t)count * sizeof *host);
        bl_progress_add(1);
    }
}

int params_init(const struct params *p, uint64_t seed, struct bl_error *err)
{
    const struct captioner_params *view = &p->view;
    bl_autofree float *host = malloc(DRAW_PIECE * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld initial values", (long long)view->count);
    for (int64_t i = 0; i < view->tensors; i++)
        draw_tensor(p->ops, view->values, host, &view->at[i], p->init[i], seed);
    return 0;
}

void params_refresh(const struct params *p)
{
    p->ops->matrices_refresh(p->ops, p->matrices, p->linears_count);
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
                           struct bl_file_writer *writer, const float *host, struct bl_error *err)
{
    bl_autofree struct tensor *tensors = calloc((size_t)params->tensors, sizeof *tensors);
    if (!tensors)
        return bl_fail(err, BL_ENOMEM, "no memory for a list of tensors");
    size_t count = 0;
    for (int64_t i = 0; i < params->tensors; i++)
        if (params->at[i].file == file)
            tensors[count++] = as_tensor(&params->at[i], host);
    return safetensors_write_to(writer, tensors, count, NULL, err);
}

static int compare_params(const void *a, const void *b)
{
    const struct captioner_param *const *pa = a, *const *pb = b;
    int files = (int)(*pa)->file - (int)(*pb)->file;
    return files ? files : strcmp((*pa)->name, (*pb)->name);
}

int captioner_params_sha256(const struct captioner_params *params, const float *host,
                            char ret_hex[65], struct bl_error *err)
{
    bl_autofree const struct captioner_param **sorted =
        calloc((size_t)params->tensors + 1, sizeof *sorted);
    if (!sorted)
        return bl_fail(err, BL_ENOMEM, "no memory for a list of tensors");
    for (int64_t i = 0; i < params->tensors; i++)
        sorted[i] = &params->at[i];
    qsort(sorted, (size_t)params->tensors, sizeof *sorted, compare_params);
    bl_autosha256 hash = {0};
    bl_sha256_begin(&hash);
    for (int64_t i = 0; i < params->tensors; i++) {
        const struct captioner_param *p = sorted[i];
        char shape[64], line[160];
        if (p->rank == 2)
            snprintf(shape, sizeof shape, "[%lld, %lld]", (long long)p->dims[0],
                     (long long)p->dims[1]);
        else
            snprintf(shape, sizeof shape, "[%lld]", (long long)p->dims[0]);
        snprintf(line, sizeof line, "%s F32 %s\n", p->name, shape);
        bl_sha256_add(&hash, line, strlen(line));
        bl_sha256_add(&hash, host + p->offset, (size_t)p->count * sizeof *host);
        bl_progress_add(1);
    }
    uint8_t bytes[32];
    bl_sha256_end(&hash, bytes);
    bl_hex(bytes, sizeof bytes, ret_hex);
    return 0;
}

static const struct captioner_param *find_param(const struct captioner_params *params,
                                                enum captioner_file file, const char *name)
{
    for (int64_t i = 0; i < params->tensors; i++)
        if (params->at[i].file == file && strcmp(params->at[i].name, name) == 0)
            return &params->at[i];
    return NULL;
}

/* One tensor of a file to its place on the device, widened by pieces if it must be. */
static int read_tensor(struct ops *ops, const struct tensor *tensor, dev_f32 *device, int64_t count,
                       struct bl_error *err)
{
    enum { PIECE = 1 << 18 };
    bl_autofree float *host = malloc(PIECE * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory to read tensors");
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t some = bl_min(PIECE, count - at);
        BL_TRY(tensor_to_f32(tensor, (size_t)at, (size_t)some, host, err));
        ops->copy_in(ops, device + at, host, (size_t)some * sizeof *host);
        bl_progress_add(1);
    }
    return 0;
}

int captioner_params_read(const struct captioner_params *params, enum captioner_file file,
                          const char *path, struct ops *ops, dev_f32 *device, struct bl_error *err)
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
        BL_TRY(read_tensor(ops, tensor, device + param->offset, param->count, err));
    }
    safetensors_let_go(source);
    return 0;
}

/* -- layers -- */

void norm_forward(const struct params *p, const struct trained_norm *norm, act *y, dev_f32 *saved,
                  const act *x, int64_t R)
{
    const dev_f32 *values = p->view.values;
    p->ops->layernorm_forward(p->ops, y, saved, x, values + norm->weight, values + norm->bias, R,
                              norm->D, TRAINED_NORM_EPS);
}

void norm_backward(const struct params *p, const struct trained_norm *norm, act *d_x,
                   const act *d_y, const act *x, const dev_f32 *saved, int64_t R, bool accumulate)
{
    dev_f32 *grads = p->view.grads;
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
    dev_f32 *grads = p->view.grads;
    if (d_x)
        p->ops->linear_backward_input(p->ops, d_x, d_y, linear->matrix, R, false);
    p->ops->linear_backward_weight(p->ops, grads + linear->weight, grads + linear->bias, d_y, x, R,
                                   linear->N, linear->K);
}
