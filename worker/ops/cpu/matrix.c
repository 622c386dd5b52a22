/* worker/ops/cpu/matrix.c - how the matrices of linear layers are kept and read: matrix.h.
 */
#include "worker/ops/cpu/matrix.h"

#include <stdlib.h>
#include <string.h>

#include "worker/ops/cpu/panels.h"

/* -- made from a file's data or a master -- */

enum { BLOCK = 1024 }; /* elements converted at a time */

/* `count` elements of dtype become dtype `to`: rounded to bf16 in the default precision, else
 * widened to f32. */
static void convert(const struct cpu *cpu, char *y, enum bl_dtype to, const char *x,
                    enum bl_dtype dtype, int64_t count)
{
    const int64_t x_bytes = dtype == BL_F32 ? 4 : 2, y_bytes = to == BL_F32 ? 4 : 2;
#pragma omp parallel for num_threads(cpu_threads(cpu, count))
    for (int64_t i = 0; i < count; i += BLOCK) {
        float wide[BLOCK];
        uint16_t half[BLOCK];
        const int64_t n = bl_min(BLOCK, count - i);
        widen(wide, x + i * x_bytes, dtype, n);
        narrow(half, wide, n);
        if (to == BL_BF16)
            memcpy(y + i * y_bytes, half, (size_t)(n * y_bytes));
        else if (cpu->ops.precision == OPS_BF16)
            widen((float *)(y + i * y_bytes), half, BL_BF16, n);
        else
            memcpy(y + i * y_bytes, wide, (size_t)(n * y_bytes));
    }
}

static void matrix_free(struct ops *self, struct ops_matrix **matrix)
{
    struct ops_matrix *m = *matrix;
    if (m) {
        cpu_free(cpu_of(self), m->owned);
        if (m->borrowed)
            ops_dry_borrow(cpu_of(self)->dry, -m->borrowed);
        free(m);
    }
    *matrix = NULL;
}

static int matrix_create(const struct cpu *cpu, struct ops_matrix **ret, enum bl_dtype dtype,
                         int64_t N, int64_t K, struct bl_error *err)
{
    struct ops_matrix *matrix = calloc(1, sizeof *matrix);
    if (!matrix)
        return bl_fail(err, BL_ENOMEM, "no memory for a matrix");
    *matrix = (struct ops_matrix){.N = N, .K = K, .dtype = dtype};
    if (cpu_by_panels(cpu, N, K))
        matrix->form = dtype == BL_BF16 && cpu->form->half ? cpu->form->half : cpu->form;
    *ret = matrix;
    return 0;
}

static int matrix_frozen(struct ops *self, struct ops_matrix **ret, const void *data,
                         enum bl_dtype dtype, int64_t N, int64_t K, enum ops_data stays,
                         struct bl_error *err)
{
    BL_ASSERT(dtype == BL_F32 || dtype == BL_F16 || dtype == BL_BF16);
    BL_ASSERT(N >= 1 && K >= 1 && (uintptr_t)data % (dtype == BL_F32 ? 4 : 2) == 0);
    struct cpu *cpu = cpu_of(self);
    enum bl_dtype to = self->precision == OPS_BF16 ? BL_BF16 : dtype;
    if (N * K <= cpu->wide_max && (to == BL_F16 || !cpu_by_panels(cpu, N, K)))
        to = BL_F32;
    const bool exact = dtype == to && (to != BL_F32 || self->precision == OPS_F32);
    const size_t bytes = (size_t)(N * K) * (to == BL_F32 ? 4 : 2);

    struct ops_matrix *matrix = NULL;
    BL_TRY(matrix_create(cpu, &matrix, to, N, K, err));
    *ret = matrix;
    matrix->rows = data;
    if (exact && stays != OPS_DATA_GOES) {
        if (cpu->dry && stays == OPS_DATA_STAYS)
            ops_dry_borrow(cpu->dry, matrix->borrowed = (int64_t)bytes);
        return 0;
    }
    matrix->rows = matrix->owned = cpu_alloc(cpu, OPS_MATRICES, bytes);
    if (!matrix->owned) {
        matrix_free(self, ret);
        return bl_fail(err, BL_ENOMEM, "no memory for a matrix of %lld x %lld", (long long)N,
                       (long long)K);
    }
    if (cpu->dry)
        return 0;
    if (exact)
        memcpy(matrix->owned, data, bytes);
    else
        convert(cpu, matrix->owned, to, data, dtype, N * K);
    return 0;
}

static int matrix_trainable(struct ops *self, struct ops_matrix **ret, const float *master,
                            int64_t N, int64_t K, struct bl_error *err)
{
    struct ops_matrix *matrix = NULL;
    BL_TRY(matrix_create(cpu_of(self), &matrix, BL_F32, N, K, err));
    matrix->rows = master;
    *ret = matrix;
    return 0;
}

/* The master itself is what is multiplied. */
static void matrices_refresh(struct ops *self, struct ops_matrix *const *matrices, int64_t count)
{
}

/* -- read as an embedding -- */

static void embed(struct ops *self, act *y_, const struct ops_matrix *table, const int32_t *ids,
                  int64_t R)
{
    float *y = cpu_f32(y_);
    const int64_t D = table->K;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *D))
    for (int64_t r = 0; r < R; r++) {
        BL_ASSERT(ids[r] >= 0 && ids[r] < table->N);
        widen(y + r * D, matrix_at(table, ids[r] * D), table->dtype, D);
    }
}

void CPU_VARIANT(cpu_fill_matrix)(struct ops *table)
{
    table->matrix_frozen = matrix_frozen;
    table->matrix_trainable = matrix_trainable;
    table->matrices_refresh = matrices_refresh;
    table->matrix_free = matrix_free;
    table->embed = embed;
}
