/* worker/model/frozen.c - frozen weights: named tensors to matrices and device vectors. */
#include "worker/model/frozen.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define PARTS_MAX 4

static int64_t product(const int64_t *dims, int rank)
{
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= dims[i];
    return count;
}

static const struct hf_tensor *description(const struct frozen_source *source, enum hf_role role)
{
    const struct hf_tensor *tensor = hf_tensor_of(source->shapes->names, role);
    BL_ASSERT(tensor != NULL); /* the model asks for what its family has */
    return tensor;
}

/* The weight of a role in the file, its shape and type checked. */
static int find_weight(const struct frozen_source *source, int64_t layer, enum hf_role role,
                       const struct tensor **ret, struct bl_error *err)
{
    char name[HF_NAME_BYTES];
    int64_t dims[4];
    const struct hf_tensor *tensor = description(source, role);
    int rank = hf_shapes_dims(source->shapes, tensor, dims);
    hf_shapes_name(source->shapes, tensor, layer, name);
    return hf_tensor_expect(source->file, name, rank, dims, ret, err);
}

/* The bias (count) of a role. *ret_has: there is one. */
static int read_bias(const struct frozen_source *source, int64_t layer, enum hf_role role,
                     float *ret, bool *ret_has, struct bl_error *err)
{
    char name[HF_NAME_BYTES];
    int64_t dims[4];
    const struct tensor *found;
    const struct hf_tensor *tensor = description(source, role);
    *ret_has = hf_shapes_bias_name(source->shapes, tensor, layer, name);
    if (!*ret_has)
        return 0;
    hf_shapes_dims(source->shapes, tensor, dims);
    BL_TRY(hf_tensor_expect(source->file, name, 1, dims, &found, err));
    return tensor_to_f32(found, 0, (size_t)dims[0], ret, err);
}

int frozen_read(const struct frozen_source *source, enum hf_role role, float *ret,
                struct bl_error *err)
{
    const struct tensor *tensor;
    BL_TRY(find_weight(source, 0, role, &tensor, err));
    return tensor_to_f32(tensor, 0, (size_t)product(tensor->dims, tensor->rank), ret, err);
}

int frozen_read_bias(const struct frozen_source *source, enum hf_role role, float *ret,
                     struct bl_error *err)
{
    bool has;
    BL_TRY(read_bias(source, 0, role, ret, &has, err));
    BL_ASSERT(has);
    return 0;
}

/* The parts in one buffer: in their own type when they share it, else widened. */
static int stack_weights(const struct ops *ops, const struct tensor *const *tensors, int count,
                         int64_t N, int64_t K, void **ret_data, enum bl_dtype *ret_dtype,
                         struct bl_error *err)
{
    enum bl_dtype dtype = tensors[0]->dtype;
    for (int i = 1; i < count; i++)
        if (tensors[i]->dtype != dtype)
            dtype = BL_F32;
    *ret_dtype = dtype;
    if (ops->dry)
        return 0;
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
    return 0;
}

static int open_bias(const struct frozen_source *source, dev_f32 **ret, int64_t layer,
                     const enum hf_role *roles, const struct tensor *const *weights, int count,
                     int64_t N, struct bl_error *err)
{
    bl_autofree float *bias = malloc((size_t)N * sizeof *bias);
    if (!bias)
        return bl_fail(err, BL_ENOMEM, "no memory for a bias");
    int64_t row = 0;
    bool any = false;
    for (int i = 0; i < count; i++) {
        bool has;
        int64_t rows = weights[i]->dims[0];
        BL_TRY(read_bias(source, layer, roles[i], bias + row, &has, err));
        if (!has) /* beside one that has */
            memset(bias + row, 0, (size_t)rows * sizeof *bias);
        any = any || has;
        row += rows;
    }
    return any ? arena_f32_from(source->constants, bias, N, ret, err) : 0;
}

/* The file may be let go when the weights are opened: else it would lie in memory beside what was made of it. */
static int open_rows(const struct frozen_source *source, struct frozen_linear *ret, int64_t layer,
                     const enum hf_role *roles, int count, enum ops_data stays,
                     struct bl_error *err)
{
    BL_ASSERT(count >= 1 && count <= PARTS_MAX);
    struct ops *ops = source->ops;
    const struct tensor *tensors[PARTS_MAX];
    struct frozen_linear linear = {0};
    for (int i = 0; i < count; i++) {
        BL_TRY(find_weight(source, layer, roles[i], &tensors[i], err));
        linear.N += tensors[i]->dims[0];
    }
    linear.K = product(tensors[0]->dims + 1, tensors[0]->rank - 1);
    BL_TRY(open_bias(source, &linear.bias, layer, roles, tensors, count, linear.N, err));
    if (count == 1) {
        BL_TRY(ops->matrix_frozen(ops, &linear.matrix, tensors[0]->data, tensors[0]->dtype,
                                  linear.N, linear.K, stays, err));
    } else {
        bl_autofree void *data = NULL;
        enum bl_dtype dtype = BL_F32;
        BL_TRY(stack_weights(ops, tensors, count, linear.N, linear.K, &data, &dtype, err));
        BL_TRY(ops->matrix_frozen(ops, &linear.matrix, data, dtype, linear.N, linear.K,
                                  OPS_DATA_GOES, err));
    }
    *ret = linear;
    safetensors_let_go(source->file);
    return 0;
}

int frozen_linear_open(const struct frozen_source *source, struct frozen_linear *ret, int64_t layer,
                       const enum hf_role *roles, int count, struct bl_error *err)
{
    return open_rows(source, ret, layer, roles, count, OPS_DATA_STAYS, err);
}

int frozen_table_open(const struct frozen_source *source, struct frozen_linear *ret,
                      enum hf_role role, bool multiplied, struct bl_error *err)
{
    return open_rows(source, ret, 0, &role, 1, multiplied ? OPS_DATA_STAYS : OPS_DATA_LOOKED_UP,
                     err);
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

void frozen_add(struct ops *ops, const struct frozen_linear *linear, act *y, const act *base,
                const act *x, int64_t R)
{
    ops->linear_add(ops, y, base, x, linear->matrix, linear->bias, R);
}

int frozen_norm_open(const struct frozen_source *source, struct frozen_norm *ret, int64_t layer,
                     enum hf_role role, enum hf_norm kind, float eps, struct bl_error *err)
{
    const struct tensor *weight;
    bool has_bias;
    BL_TRY(find_weight(source, layer, role, &weight, err));
    int64_t D = weight->dims[0];
    bl_autofree float *host = malloc((size_t)D * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for a norm");
    struct frozen_norm norm = {.kind = kind, .D = D, .eps = eps};
    BL_TRY(tensor_to_f32(weight, 0, (size_t)D, host, err));
    BL_TRY(arena_f32_from(source->constants, host, D, &norm.weight, err));
    BL_TRY(read_bias(source, layer, role, host, &has_bias, err));
    BL_ASSERT(has_bias == (kind == HF_LAYER_NORM));
    if (has_bias)
        BL_TRY(arena_f32_from(source->constants, host, D, &norm.bias, err));
    *ret = norm;
    return 0;
}

int64_t frozen_norm_saved(const struct frozen_norm *norm, int64_t R)
{
    return norm->kind == HF_LAYER_NORM ? 2 * R : R;
}

void frozen_norm_forward(struct ops *ops, const struct frozen_norm *norm, act *y, dev_f32 *saved,
                         const act *x, int64_t R)
{
    if (norm->kind == HF_LAYER_NORM)
        ops->layernorm_forward(ops, y, saved, x, norm->weight, norm->bias, R, norm->D, norm->eps);
    else
        ops->rmsnorm_forward(ops, y, saved, x, norm->weight, R, norm->D, norm->eps);
}

void frozen_norm_backward(struct ops *ops, const struct frozen_norm *norm, act *d_x, const act *d_y,
                          const act *x, const dev_f32 *saved, int64_t R, bool accumulate)
{
    if (norm->kind == HF_LAYER_NORM)
        ops->layernorm_backward(ops, d_x, NULL, NULL, d_y, x, saved, norm->weight, R, norm->D,
                                accumulate);
    else
        ops->rmsnorm_backward(ops, d_x, d_y, x, saved, norm->weight, R, norm->D, accumulate);
}
