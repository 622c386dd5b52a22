/* worker/ops/cpu/matmul.c - linear layers: y (R,N) = f(x (R,K) W^T + b),  W (N,K).
 *
 * Backward   d_x = d_y W,  d_W = d_y^T x,  d_b = sum over rows of d_y.
 * Tiles      the result is cut into tiles, each one single-threaded sgemm over the whole inner
 *            dimension (a fixed number of them, one after the other, where W has to be widened and
 *            its scratch is bounded). OpenMP spreads the tiles. So an element's order of summation
 *            is the library's for a shape that R, N and K decide alone.
 * Weights    16-bit rows are widened tile by tile into a thread's scratch; a matrix of at most
 *            wide_max elements (cpu.h) once and for all.
 * bf16       where the processor multiplies bf16, W is packed (packed.h) and x rounded row by row;
 *            d_W stays a product of f32 values.
 */
#include "worker/ops/cpu/matmul.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "worker/ops/cpu/functions.h"
#include "worker/ops/cpu/packed.h"

/* -- matrices -- */

static void widen(float *restrict y, const void *x, enum bl_dtype dtype, int64_t count)
{
    const uint16_t *half = x;
    if (dtype == BL_F32)
        memcpy(y, x, (size_t)count * sizeof *y);
    else if (dtype == BL_BF16)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = bf16_to_f32(half[i]);
    else
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f16_to_f32(half[i]);
}

/* The rounding of the default precision, in f32. */
static void round_to_bf16(float *x, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] = bf16_to_f32(f32_to_bf16(x[i]));
}

static void narrow(uint16_t *restrict y, const float *x, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        y[i] = f32_to_bf16(x[i]);
}

/* A new copy of the N x K elements of `dtype` as f32 (rounded to bf16 in the default precision) or
 * as bf16. NULL: no memory. */
static void *copy_matrix(const struct cpu *cpu, const void *data, enum bl_dtype dtype,
                         enum bl_dtype to, int64_t N, int64_t K)
{
    int64_t element_bytes = to == BL_F32 ? 4 : 2;
    bl_autofree float *row = cpu_alloc((size_t)K * sizeof *row);
    char *copy = cpu_alloc((size_t)(N * K * element_bytes));
    if (!row || !copy) {
        free(copy);
        return NULL;
    }
    int64_t from_bytes = dtype == BL_F32 ? 4 : 2;
    for (int64_t n = 0; n < N; n++) {
        const char *from = (const char *)data + n * K * from_bytes;
        if (dtype == to && (to != BL_F32 || cpu->ops.precision == OPS_F32)) {
            memcpy(copy + n * K * element_bytes, from, (size_t)(K * element_bytes));
            continue;
        }
        widen(row, from, dtype, K);
        if (to == BL_BF16) {
            narrow((uint16_t *)copy + n * K, row, K);
        } else {
            if (cpu->ops.precision == OPS_BF16)
                round_to_bf16(row, K);
            memcpy((float *)copy + n * K, row, (size_t)K * sizeof *row);
        }
    }
    return copy;
}

static void matrix_free(struct ops *self, struct ops_matrix **matrix)
{
    struct ops_matrix *m = *matrix;
    if (m) {
        if (m->packing) {
            packed_free(&m->packing->forward);
            packed_free(&m->packing->backward);
        }
        free(m->packing);
        free(m->owned);
        free(m);
    }
    *matrix = NULL;
}

static int matrix_create(const struct cpu *cpu, struct ops_matrix **ret, enum bl_dtype dtype,
                         int64_t N, int64_t K, struct bl_error *err)
{
    struct ops_matrix *matrix = calloc(1, sizeof *matrix);
    struct matrix_packing *packing = cpu->packed ? calloc(1, sizeof *packing) : NULL;
    if (!matrix || (cpu->packed && !packing)) {
        free(matrix);
        free(packing);
        return bl_fail(err, BL_ENOMEM, "no memory for a matrix");
    }
    *matrix = (struct ops_matrix){.N = N, .K = K, .dtype = dtype, .packing = packing};
    *ret = matrix;
    return 0;
}

static int matrix_frozen(struct ops *self, struct ops_matrix **ret, const void *data,
                         enum bl_dtype dtype, int64_t N, int64_t K, bool keep_data,
                         struct bl_error *err)
{
    BL_ASSERT(dtype == BL_F32 || dtype == BL_F16 || dtype == BL_BF16);
    BL_ASSERT(N >= 1 && K >= 1);
    const struct cpu *cpu = cpu_of(self);
    enum bl_dtype to = self->precision == OPS_BF16 ? BL_BF16 : dtype;
    if (N * K <= cpu->wide_max && !cpu->packed)
        to = BL_F32;
    bool exact = dtype == to && (to != BL_F32 || self->precision == OPS_F32);
    bool aligned = (uintptr_t)data % (dtype == BL_F32 ? 4 : 2) == 0;

    struct ops_matrix *matrix = NULL;
    BL_TRY(matrix_create(cpu, &matrix, to, N, K, err));
    matrix->rows = data;
    if (!exact || !aligned || !keep_data) {
        matrix->rows = matrix->owned = copy_matrix(cpu, data, dtype, to, N, K);
        if (!matrix->owned) {
            matrix_free(self, &matrix);
            return bl_fail(err, BL_ENOMEM, "no memory for a matrix of %lld x %lld", (long long)N,
                           (long long)K);
        }
    }
    *ret = matrix;
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

/* In f32 the master itself is what is multiplied. */
static void matrix_refresh(struct ops *self, struct ops_matrix *matrix)
{
    if (matrix->packing)
        matrix->packing->forward_fresh = matrix->packing->backward_fresh = false;
}

/* -- tiles -- */

/* (rows, columns) cut into row_count x column_count tiles of at most these sizes. */
struct tiles {
    int64_t rows, columns, row_count, column_count, count;
};

/* n in equal blocks of at most `most`, rounded up to `multiple`. */
static int64_t even_block(int64_t n, int64_t most, int64_t multiple)
{
    int64_t block = bl_ceil_div(n, bl_ceil_div(n, most));
    return bl_ceil_div(block, multiple) * multiple;
}

/* Measured (AVX-512, one core, 192 to 3072 columns): tiles of 128 x 384 reach what the library does
 * on the whole, and leave enough of them for the threads. 48 columns are its AVX-512 step, 8 rows
 * too. Where W is widened tile by tile, more rows share the work. */
static struct tiles tiles_of(int64_t rows, int64_t columns, bool widened)
{
    struct tiles t = {.rows = even_block(rows, widened ? 512 : 128, 8),
                      .columns = even_block(columns, widened ? 192 : 384, 48)};
    t.row_count = bl_ceil_div(rows, t.rows);
    t.column_count = bl_ceil_div(columns, t.columns);
    t.count = t.row_count * t.column_count;
    return t;
}

/* For cpu_threads: a multiplication takes a sixteenth of a simple operation, and reading an element
 * of W a whole one. */
static int64_t work_of(int64_t R, int64_t N, int64_t K)
{
    return (R + 15) * N * K / 16;
}

/* y = x op(W): row-major, single-threaded (cpu.h, Threads). */
static void sgemm(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K,
                  const float *a, int64_t ld_a, const float *b, int64_t ld_b, float beta, float *y,
                  int64_t ld_y)
{
    dnnl_status_t status =
        dnnl_sgemm(transpose_a, transpose_b, M, N, K, 1, a, ld_a, b, ld_b, beta, y, ld_y);
    BL_ASSERT(status == dnnl_success);
}

/* -- the end of a product: bias, what is saved, activation -- */

static void finish_row(float *y, float *saved_pre, const float *bias, int64_t count,
                       enum ops_epilogue epilogue)
{
    if (bias)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] += bias[i];
    if (saved_pre)
        memcpy(saved_pre, y, (size_t)count * sizeof *y);
    switch (epilogue) {
    case OPS_NONE:
        break;
    case OPS_GELU_ERF:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f32_gelu_erf(y[i]);
        break;
    case OPS_GELU_TANH:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f32_gelu_tanh(y[i]);
        break;
    case OPS_SILU:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f32_silu(y[i]);
        break;
    }
}

/* -- bf16 products -- */

/* Loads all blocks of W^T (turned) or W. */
static bool load_packed(struct cpu *cpu, struct packed *packed, const struct ops_matrix *w,
                        bool turned)
{
    const uint16_t *values = w->rows;
    if (w->dtype == BL_F32) {
        uint16_t *rounded =
            cpu_scratch(cpu, CPU_SCRATCH_INNER, (size_t)(w->N * w->K) * sizeof *rounded);
        if (!rounded)
            return false;
#pragma omp parallel for num_threads(cpu_threads(cpu, w->N * w->K))
        for (int64_t n = 0; n < w->N; n++)
            narrow(rounded + n * w->K, (const float *)matrix_at(w, n * w->K), w->K);
        values = rounded;
    }
#pragma omp parallel for num_threads(cpu_threads(cpu, w->N * w->K))
    for (int64_t b = 0; b < packed_block_count(packed); b++) {
        int64_t first, count;
        packed_block(packed, b, &first, &count);
        if (turned)
            packed_load(packed, b, values + first * w->K, 1, w->K);
        else
            packed_load(packed, b, values + first, w->K, 1);
    }
    return true;
}

/* The packed copy of W^T (turned) or W, made or renewed; NULL: out of memory, recorded. */
static struct packed *packed_of(struct cpu *cpu, const struct ops_matrix *w, bool turned)
{
    struct matrix_packing *packing = w->packing;
    struct packed **packed = turned ? &packing->forward : &packing->backward;
    bool *fresh = turned ? &packing->forward_fresh : &packing->backward_fresh;
    struct bl_error err;
    if (!*packed && packed_create(turned ? w->K : w->N, turned ? w->N : w->K, packed, &err) < 0) {
        if (!cpu->failure.code)
            cpu->failure = err;
        return NULL;
    }
    if (!*fresh)
        *fresh = load_packed(cpu, *packed, w, turned);
    return *fresh ? *packed : NULL;
}

/* y (R,N) = or += x (R,K) B, and its end. */
struct packed_product {
    const struct packed *packed;
    float *y, *saved_pre;
    const float *x, *bias;
    int64_t R, N, K;
    enum ops_epilogue epilogue;
    bool accumulate;
};

static void multiply_packed(struct cpu *cpu, const struct packed_product *p)
{
    const int64_t tiles = bl_ceil_div(p->R, PACKED_ROWS_MAX), rows = tiles * PACKED_ROWS_MAX;
    const int64_t blocks = packed_block_count(p->packed);
    int64_t first, widest;
    packed_block(p->packed, 0, &first, &widest);
    const size_t x_bytes = ((size_t)(rows * p->K) * sizeof(uint16_t) + 63) & ~(size_t)63;
    const size_t tile_bytes = (size_t)(PACKED_ROWS_MAX * widest) * sizeof(float);
    const size_t thread_bytes = tile_bytes + ((packed_scratch(p->packed) + 63) & ~(size_t)63);
    char *scratch =
        cpu_scratch(cpu, CPU_SCRATCH_INNER, x_bytes + thread_bytes * (size_t)cpu->threads);
    if (!scratch)
        return;
    uint16_t *x = (uint16_t *)scratch;
    const int threads = cpu_threads(cpu, work_of(p->R, p->N, p->K));
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++)
        if (r < p->R)
            narrow(x + r * p->K, p->x + r * p->K, p->K);
        else
            memset(x + r * p->K, 0, (size_t)p->K * sizeof *x);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < tiles * blocks; i++) {
        char *mine = scratch + x_bytes + (size_t)omp_get_thread_num() * thread_bytes;
        float *tile = (float *)mine;
        int64_t r0 = i % tiles * PACKED_ROWS_MAX, n0, columns;
        const int64_t count = bl_min(PACKED_ROWS_MAX, p->R - r0);
        packed_block(p->packed, i / tiles, &n0, &columns);
        packed_multiply(p->packed, i / tiles, tile, x + r0 * p->K, packed_rows(count),
                        mine + tile_bytes);
        for (int64_t r = 0; r < count; r++) {
            float *restrict y = p->y + (r0 + r) * p->N + n0;
            const float *product = tile + r * columns;
            if (!p->accumulate)
                memcpy(y, product, (size_t)columns * sizeof *y);
            else
#pragma omp simd
                for (int64_t n = 0; n < columns; n++)
                    y[n] += product[n];
            finish_row(y, p->saved_pre ? p->saved_pre + (r0 + r) * p->N + n0 : NULL,
                       p->bias ? p->bias + n0 : NULL, columns, p->epilogue);
        }
    }
}

/* -- forward -- */

static void linear_forward(struct ops *self, act *y_, act *saved_pre_, const act *x_,
                           const struct ops_matrix *w, const float *bias, int64_t R,
                           enum ops_epilogue epilogue)
{
    if (R == 0)
        return;
    struct cpu *cpu = cpu_of(self);
    float *y = cpu_f32(y_), *saved_pre = cpu_f32(saved_pre_);
    const float *x = cpu_const_f32(x_);
    const int64_t N = w->N, K = w->K;
    if (w->packing) {
        struct packed *packed = packed_of(cpu, w, true);
        if (packed)
            multiply_packed(cpu, &(struct packed_product){.packed = packed,
                                                          .y = y,
                                                          .saved_pre = saved_pre,
                                                          .x = x,
                                                          .bias = bias,
                                                          .R = R,
                                                          .N = N,
                                                          .K = K,
                                                          .epilogue = epilogue});
        return;
    }
    const struct tiles t = tiles_of(R, N, w->dtype != BL_F32);
    size_t stride = 0;
    char *scratch = NULL;
    if (w->dtype != BL_F32) {
        size_t bytes = (size_t)(t.columns * K) * sizeof(float);
        scratch = cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, bytes, &stride);
        if (!scratch)
            return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t r0 = i % t.row_count * t.rows, n0 = i / t.row_count * t.columns;
        int64_t rows = bl_min(t.rows, R - r0), columns = bl_min(t.columns, N - n0);
        const float *b = (const float *)matrix_at(w, n0 * K);
        if (w->dtype != BL_F32) {
            float *wide = (float *)(scratch + (size_t)omp_get_thread_num() * stride);
            widen(wide, matrix_at(w, n0 * K), w->dtype, columns * K);
            b = wide;
        }
        sgemm('N', 'T', rows, columns, K, x + r0 * K, K, b, K, 0, y + r0 * N + n0, N);
        for (int64_t r = r0; r < r0 + rows; r++)
            finish_row(y + r * N + n0, saved_pre ? saved_pre + r * N + n0 : NULL,
                       bias ? bias + n0 : NULL, columns, epilogue);
    }
}

/* -- backward -- */

enum { WIDE_ROWS = 2048 }; /* rows of W widened at a time for d_x: bounds the scratch */

static void linear_backward_input(struct ops *self, act *d_x_, const act *d_y_,
                                  const struct ops_matrix *w, int64_t R, bool accumulate)
{
    if (R == 0)
        return;
    struct cpu *cpu = cpu_of(self);
    float *d_x = cpu_f32(d_x_);
    const float *d_y = cpu_const_f32(d_y_);
    const int64_t N = w->N, K = w->K;
    if (w->packing) {
        struct packed *packed = packed_of(cpu, w, false);
        if (packed)
            multiply_packed(cpu, &(struct packed_product){.packed = packed,
                                                          .y = d_x,
                                                          .x = d_y,
                                                          .R = R,
                                                          .N = K,
                                                          .K = N,
                                                          .accumulate = accumulate});
        return;
    }
    const struct tiles t = tiles_of(R, K, w->dtype != BL_F32);
    size_t stride = 0;
    char *scratch = NULL;
    if (w->dtype != BL_F32) {
        size_t bytes = (size_t)(bl_min(N, WIDE_ROWS) * t.columns) * sizeof(float);
        scratch = cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, bytes, &stride);
        if (!scratch)
            return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t r0 = i % t.row_count * t.rows, k0 = i / t.row_count * t.columns;
        int64_t rows = bl_min(t.rows, R - r0), columns = bl_min(t.columns, K - k0);
        float *y = d_x + r0 * K + k0;
        if (w->dtype == BL_F32) {
            sgemm('N', 'N', rows, columns, N, d_y + r0 * N, N, (const float *)matrix_at(w, k0), K,
                  accumulate, y, K);
            continue;
        }
        float *wide = (float *)(scratch + (size_t)omp_get_thread_num() * stride);
        for (int64_t n0 = 0; n0 < N; n0 += WIDE_ROWS) {
            int64_t inner = bl_min(WIDE_ROWS, N - n0);
            for (int64_t n = 0; n < inner; n++)
                widen(wide + n * columns, matrix_at(w, (n0 + n) * K + k0), w->dtype, columns);
            sgemm('N', 'N', rows, columns, inner, d_y + r0 * N + n0, N, wide, columns,
                  accumulate || n0 > 0, y, K);
        }
    }
}

/* d_bias += column sums of d_y, by fixed row blocks. */
static void add_column_sums(struct cpu *cpu, float *d_bias, const float *d_y, int64_t R, int64_t N)
{
    const struct cpu_row_blocks blocks = cpu_row_blocks(R);
    float *partial =
        cpu_scratch(cpu, CPU_SCRATCH_INNER, (size_t)(blocks.count * N) * sizeof *partial);
    if (!partial)
        return;
#pragma omp parallel for num_threads(cpu_threads(cpu, R *N))
    for (int64_t b = 0; b < blocks.count; b++) {
        float *restrict sum = partial + b * N;
        memset(sum, 0, (size_t)N * sizeof *sum);
        for (int64_t r = b * blocks.rows; r < bl_min(R, (b + 1) * blocks.rows); r++)
#pragma omp simd
            for (int64_t n = 0; n < N; n++)
                sum[n] += d_y[r * N + n];
    }
    for (int64_t b = 0; b < blocks.count; b++)
#pragma omp simd
        for (int64_t n = 0; n < N; n++)
            d_bias[n] += partial[b * N + n];
}

static void linear_backward_weight(struct ops *self, float *d_w, float *d_bias, const act *d_y_,
                                   const act *x_, int64_t R, int64_t N, int64_t K)
{
    if (R == 0)
        return;
    struct cpu *cpu = cpu_of(self);
    const float *d_y = cpu_const_f32(d_y_), *x = cpu_const_f32(x_);
    const struct tiles t = tiles_of(N, K, false);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t n0 = i % t.row_count * t.rows, k0 = i / t.row_count * t.columns;
        sgemm('T', 'N', bl_min(t.rows, N - n0), bl_min(t.columns, K - k0), R, d_y + n0, N, x + k0,
              K, 1, d_w + n0 * K + k0, K);
    }
    if (d_bias)
        add_column_sums(cpu, d_bias, d_y, R, N);
}

/* -- embedding: the rows of a matrix of any form -- */

static void embed(struct ops *self, act *y_, const struct ops_matrix *table, const int32_t *ids,
                  int64_t R)
{
    float *y = cpu_f32(y_);
    const int64_t D = table->K;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *D))
    for (int64_t r = 0; r < R; r++)
        widen(y + r * D, matrix_at(table, ids[r] * D), table->dtype, D);
}

void CPU_VARIANT(cpu_fill_matmul)(struct ops *table)
{
    table->matrix_frozen = matrix_frozen;
    table->matrix_trainable = matrix_trainable;
    table->matrix_refresh = matrix_refresh;
    table->matrix_free = matrix_free;
    table->linear_forward = linear_forward;
    table->linear_backward_input = linear_backward_input;
    table->linear_backward_weight = linear_backward_weight;
    table->embed = embed;
}
