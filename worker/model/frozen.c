/* worker/model/frozen.c - frozen weights: named tensors to packed matrices and device vectors. */
#include "worker/model/frozen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define NAME_BYTES 256
#define PARTS_MAX 4

/* PREFIX AT NAME SUFFIX. The names are ours, so that a longer one would be our own mistake. */
static void full_name(char ret[NAME_BYTES], const struct frozen_source *source, const char *at,
                      const char *name, const char *suffix)
{
    int length = snprintf(ret, NAME_BYTES, "%s%s%s%s", source->prefix, at, name, suffix);
    BL_ASSERT_CMP(length, <, NAME_BYTES);
}

bool frozen_has(const struct frozen_source *source, const char *name)
{
    char full[NAME_BYTES];
    full_name(full, source, "", name, "");
    return safetensors_find(source->file, full) != NULL;
}

int frozen_read(const struct frozen_source *source, const char *name, int rank, const int64_t *dims,
                float *ret, struct bl_error *err)
{
    char full[NAME_BYTES];
    full_name(full, source, "", name, "");
    const struct tensor *tensor;
    BL_TRY(safetensors_expect(source->file, full, rank, dims, &tensor, err));
    size_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= (size_t)dims[i];
    return tensor_to_f32(tensor, 0, count, ret, err);
}

static int read_vector(const struct frozen_source *source, const char *at, const char *name,
                       const char *suffix, int64_t count, float *ret, struct bl_error *err)
{
    char full[NAME_BYTES];
    full_name(full, source, at, name, suffix);
    const struct tensor *tensor;
    BL_TRY(safetensors_expect(source->file, full, 1, &count, &tensor, err));
    return tensor_to_f32(tensor, 0, (size_t)count, ret, err);
}

/* The part's weight as (rows, K); a convolution's kernel is flat in memory already. */
static int find_weight(const struct frozen_source *source, const char *at,
                       const struct frozen_part *part, int64_t K, const struct tensor **ret,
                       struct bl_error *err)
{
    char full[NAME_BYTES];
    full_name(full, source, at, part->name, ".weight");
    const struct tensor *tensor = safetensors_find(source->file, full);
    bool convolution = tensor && tensor->rank == 4 && tensor->dims[1] > 0 && tensor->dims[2] > 0 &&
                       tensor->dims[2] == tensor->dims[3] &&
                       tensor->dims[1] * tensor->dims[2] * tensor->dims[3] == K;
    if (convolution)
        return safetensors_expect(
            source->file, full, 4,
            (const int64_t[]){part->rows, tensor->dims[1], tensor->dims[2], tensor->dims[3]}, ret,
            err);
    return safetensors_expect(source->file, full, 2, (const int64_t[]){part->rows, K}, ret, err);
}

/* The parts in one buffer: in their own type when they share it, else widened. */
static int stack_weights(const struct tensor *const *tensors, int count, int64_t N, int64_t K,
                         void **ret_data, enum bl_dtype *ret_dtype, struct bl_error *err)
{
    enum bl_dtype dtype = tensors[0]->dtype;
    for (int i = 1; i < count; i++)
        if (tensors[i]->dtype != dtype)
            dtype = BL_F32;
    bl_autofree char *data = malloc((size_t)(N * K) * bl_dtype_bytes(dtype));
    if (!data)
        return bl_fail(err, BL_ENOMEM, "no memory for a weight of %lld x %lld", (long long)N,
                       (long long)K);
    char *at = data;
    for (int i = 0; i < count; i++) {
        size_t elements = (size_t)(tensors[i]->dims[0] * K);
        if (tensors[i]->dtype == dtype)
            memcpy(at, tensors[i]->data, elements * bl_dtype_bytes(dtype));
        else
            BL_TRY(tensor_to_f32(tensors[i], 0, elements, (float *)(void *)at, err));
        at += elements * bl_dtype_bytes(dtype);
    }
    *ret_data = bl_take(&data);
    *ret_dtype = dtype;
    return 0;
}

static int open_bias(const struct frozen_source *source, float **ret, const char *at,
                     const struct frozen_part *parts, int count, int64_t N, struct bl_error *err)
{
    bl_autofree float *bias = malloc((size_t)N * sizeof *bias);
    if (!bias)
        return bl_fail(err, BL_ENOMEM, "no memory for a bias");
    int64_t row = 0;
    for (int i = 0; i < count; i++) {
        BL_TRY(read_vector(source, at, parts[i].name, ".bias", parts[i].rows, bias + row, err));
        row += parts[i].rows;
    }
    return arena_f32_from(source->constants, bias, N, ret, err);
}

int frozen_linear_open(const struct frozen_source *source, struct frozen_linear *ret,
                       const char *at, const struct frozen_part *parts, int count, int64_t K,
                       bool has_bias, struct bl_error *err)
{
    BL_ASSERT(count >= 1 && count <= PARTS_MAX);
    const struct tensor *tensors[PARTS_MAX];
    int64_t N = 0;
    for (int i = 0; i < count; i++) {
        BL_TRY(find_weight(source, at, &parts[i], K, &tensors[i], err));
        enum bl_dtype dtype = tensors[i]->dtype;
        if (dtype != BL_F32 && dtype != BL_F16 && dtype != BL_BF16) {
            bl_fail(err, BL_EFORMAT, "expected F32, F16 or BF16, found %s", bl_dtype_name(dtype));
            bl_error_key(err, "tensor \"%s\"", tensors[i]->name);
            return bl_error_file(err, tensors[i]->file);
        }
        N += parts[i].rows;
    }
    struct frozen_linear linear = {.N = N, .K = K};
    if (has_bias)
        BL_TRY(open_bias(source, &linear.bias, at, parts, count, N, err));
    if (count == 1) {
        BL_TRY(source->ops->matrix_frozen(source->ops, &linear.matrix, tensors[0]->data,
                                          tensors[0]->dtype, N, K, true, err));
    } else {
        bl_autofree void *data = NULL;
        enum bl_dtype dtype = BL_F32;
        BL_TRY(stack_weights(tensors, count, N, K, &data, &dtype, err));
        BL_TRY(
            source->ops->matrix_frozen(source->ops, &linear.matrix, data, dtype, N, K, false, err));
    }
    safetensors_let_go(source->file); /* else the file lies in memory beside its copy */
    *ret = linear;
    return 0;
}

void frozen_linear_close(struct ops *ops, struct frozen_linear *linear)
{
    if (linear->matrix)
        ops->matrix_free(ops, &linear->matrix);
}

void frozen_forward(struct ops *ops, const struct frozen_linear *linear, act *y, const act *x,
                    int64_t R, enum ops_epilogue epilogue)
{
    ops->linear_forward(ops, y, NULL, x, linear->matrix, linear->bias, R, epilogue);
}

int frozen_norm_open(const struct frozen_source *source, struct frozen_norm *ret, const char *at,
                     const char *name, int64_t D, bool has_bias, struct bl_error *err)
{
    bl_autofree float *host = malloc((size_t)D * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for a norm");
    struct frozen_norm norm = {0};
    BL_TRY(read_vector(source, at, name, ".weight", D, host, err));
    BL_TRY(arena_f32_from(source->constants, host, D, &norm.weight, err));
    if (has_bias) {
        BL_TRY(read_vector(source, at, name, ".bias", D, host, err));
        BL_TRY(arena_f32_from(source->constants, host, D, &norm.bias, err));
    }
    *ret = norm;
    return 0;
}
