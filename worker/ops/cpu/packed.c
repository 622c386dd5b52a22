/* worker/ops/cpu/packed.c - see packed.h.
 *
 * Rate       a block of 256 columns by 128 rows: 980 GFLOP/s over 768 inner elements, 1250 over 576,
 *            830 over 3072 (AMX). Blocks of 128 columns and tiles of 256 rows gain as much at some
 *            shapes as they lose at others.
 */
#include "worker/ops/cpu/packed.h"

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdlib.h>

#include "worker/ops/cpu/cpu.h"

/* Columns of a block: multiples of 64, the library's own AMX and AVX-512 step. */
enum { BLOCK = 256, STEP = 64 };

/* A single row of a decoder is worth a kernel of its own; above, filling up costs little. */
static const int64_t row_counts[] = {1, 16, 48, PACKED_ROWS_MAX};
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

/* Blocks come in two widths: all but the last, and the last. */
enum { WIDTHS = 2 };

struct width {
    int64_t columns;
    dnnl_memory_desc_t layout, x[ROW_COUNTS], y[ROW_COUNTS], scratch[ROW_COUNTS];
    dnnl_primitive_t product[ROW_COUNTS];
};

struct packed {
    int64_t K, N, block, block_count;
    size_t block_bytes, scratch_bytes;
    struct width widths[WIDTHS];
};

/* The processor's engine and its stream, which holds no state: one for all threads. */
static dnnl_engine_t engine;
static dnnl_stream_t stream;
static pthread_once_t engine_once = PTHREAD_ONCE_INIT;

static void start_engine(void)
{
    if (dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success)
        dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
}

static const struct width *width_of(const struct packed *packed, int64_t b)
{
    return &packed->widths[b == packed->block_count - 1];
}

/* Describes the product of row_counts[i] rows. With `any` the library chooses B's layout, else it
 * has to take the one chosen before. False: it cannot. */
static bool describe(struct width *w, int64_t K, int i, bool any)
{
    dnnl_dims_t x_dims = {row_counts[i], K}, x_strides = {K, 1};
    dnnl_dims_t y_dims = {row_counts[i], w->columns}, y_strides = {w->columns, 1};
    dnnl_dims_t b_dims = {K, w->columns};
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t description = NULL;
    if (any)
        dnnl_memory_desc_init_by_tag(&w->layout, 2, b_dims, dnnl_bf16, dnnl_format_tag_any);
    bool good =
        dnnl_memory_desc_init_by_strides(&w->x[i], 2, x_dims, dnnl_bf16, x_strides) ==
            dnnl_success &&
        dnnl_memory_desc_init_by_strides(&w->y[i], 2, y_dims, dnnl_f32, y_strides) ==
            dnnl_success &&
        dnnl_primitive_attr_create(&attributes) == dnnl_success &&
        dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user) ==
            dnnl_success &&
        dnnl_matmul_desc_init(&matmul, &w->x[i], &w->layout, NULL, &w->y[i]) == dnnl_success &&
        dnnl_primitive_desc_create(&description, &matmul, attributes, engine, NULL) ==
            dnnl_success &&
        dnnl_primitive_create(&w->product[i], description) == dnnl_success;
    if (good) {
        w->layout = *dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 0);
        w->scratch[i] = *dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    }
    dnnl_primitive_desc_destroy(description);
    dnnl_primitive_attr_destroy(attributes);
    return good;
}

bool packed_is_possible(void)
{
    struct packed *packed = NULL;
    bool possible = packed_create(64, 64, &packed, NULL) == 0;
    packed_free(&packed);
    return possible;
}

int packed_create(int64_t K, int64_t N, struct packed **ret, struct bl_error *err)
{
    struct packed *packed = calloc(1, sizeof *packed);
    pthread_once(&engine_once, start_engine);
    if (!packed || !stream) {
        free(packed);
        return bl_fail(err, BL_ENOMEM, "no memory for a packed matrix");
    }
    packed->K = K;
    packed->N = N;
    packed->block = bl_ceil_div(bl_ceil_div(N, bl_ceil_div(N, BLOCK)), STEP) * STEP;
    packed->block_count = bl_ceil_div(N, packed->block);
    for (int i = 0; i < WIDTHS; i++) {
        struct width *w = &packed->widths[i];
        w->columns = i ? N - (packed->block_count - 1) * packed->block : packed->block;
        /* the largest product chooses the layout */
        for (int r = ROW_COUNTS - 1; r >= 0; r--) {
            if (!describe(w, K, r, r == ROW_COUNTS - 1)) {
                packed_free(&packed);
                return bl_fail(err, BL_EDEVICE, "oneDNN cannot multiply bf16 on this processor");
            }
            packed->scratch_bytes =
                bl_max(packed->scratch_bytes, dnnl_memory_desc_get_size(&w->scratch[r]));
        }
        size_t bytes = dnnl_memory_desc_get_size(&w->layout);
        packed->block_bytes = bl_max(packed->block_bytes, (bytes + 63) & ~(size_t)63);
    }
    *ret = packed;
    return 0;
}

void packed_free(struct packed **packed)
{
    if (*packed) {
        for (int i = 0; i < WIDTHS; i++)
            for (int r = 0; r < ROW_COUNTS; r++)
                dnnl_primitive_destroy((*packed)->widths[i].product[r]);
        free(*packed);
    }
    *packed = NULL;
}

size_t packed_block_bytes(const struct packed *packed)
{
    return packed->block_bytes;
}

int64_t packed_block_count(const struct packed *packed)
{
    return packed->block_count;
}

void packed_block(const struct packed *packed, int64_t b, int64_t *ret_first, int64_t *ret_count)
{
    *ret_first = b * packed->block;
    *ret_count = width_of(packed, b)->columns;
}

static dnnl_memory_t memory_at(const dnnl_memory_desc_t *description, const void *data)
{
    dnnl_memory_t memory = NULL;
    dnnl_status_t status =
        dnnl_memory_create(&memory, description, engine, (void *)(uintptr_t)data);
    BL_ASSERT(status == dnnl_success);
    return memory;
}

void packed_load(const struct packed *packed, int64_t b, void *block, const uint16_t *values,
                 int64_t stride_k, int64_t stride_n)
{
    const struct width *w = width_of(packed, b);
    dnnl_dims_t dims = {packed->K, w->columns}, strides = {stride_k, stride_n};
    dnnl_memory_desc_t plain;
    dnnl_primitive_desc_t description = NULL;
    dnnl_primitive_t reorder = NULL;
    bool good =
        dnnl_memory_desc_init_by_strides(&plain, 2, dims, dnnl_bf16, strides) == dnnl_success &&
        dnnl_reorder_primitive_desc_create(&description, &plain, engine, &w->layout, engine,
                                           NULL) == dnnl_success &&
        dnnl_primitive_create(&reorder, description) == dnnl_success;
    BL_ASSERT(good);
    dnnl_memory_t from = memory_at(&plain, values);
    dnnl_memory_t to = memory_at(&w->layout, block);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    dnnl_status_t status = dnnl_primitive_execute(reorder, stream, 2, args);
    BL_ASSERT(status == dnnl_success);
    dnnl_memory_destroy(from);
    dnnl_memory_destroy(to);
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(description);
}

/* -- from a matrix to its transpose -- */

/* The library's layout for bf16 (16a64b2a): panels of 64 columns, in each all pairs of rows, the two
 * numbers of a pair side by side. PANEL columns, PAIR rows. */
enum { PANEL = 64, PAIR = 2, ROWS_STEP = 32 };

static bool is_paired(const dnnl_memory_desc_t *layout)
{
    const dnnl_blocking_desc_t *blocking = &layout->format_desc.blocking;
    const dnnl_dim_t inner[3] = {ROWS_STEP / PAIR, PANEL, PAIR}, indices[3] = {0, 1, 0};
    if (blocking->inner_nblks != 3 || blocking->strides[0] != ROWS_STEP * PANEL ||
        blocking->strides[1] != layout->padded_dims[0] * PANEL)
        return false;
    for (int i = 0; i < 3; i++)
        if (blocking->inner_blks[i] != inner[i] || blocking->inner_idxs[i] != indices[i])
            return false;
    return true;
}

/* Where element (k, n) lies: plain rows, or pairs. */
static int64_t offset_of(const dnnl_memory_desc_t *layout, bool paired, int64_t k, int64_t n)
{
    const dnnl_dim_t *strides = layout->format_desc.blocking.strides;
    if (!paired)
        return k * strides[0] + n * strides[1];
    return n / PANEL * strides[1] + (k / PAIR * PANEL + n % PANEL) * PAIR + k % PAIR;
}

/* One element after the other: for layouts of processors without bf16, where tests alone come. */
static void transpose_plainly(uint16_t *to, const dnnl_memory_desc_t *to_layout, int64_t to_row,
                              const uint16_t *from, const dnnl_memory_desc_t *from_layout,
                              int64_t from_row)
{
    const bool to_paired = is_paired(to_layout), from_paired = is_paired(from_layout);
    for (int64_t n = 0; n < from_layout->dims[1]; n++)
        for (int64_t k = 0; k < to_layout->dims[1]; k++)
            to[offset_of(to_layout, to_paired, to_row + n, k)] =
                from[offset_of(from_layout, from_paired, from_row + k, n)];
}

#ifdef CPU_X86
#include "worker/ops/cpu/transpose.h"

#define AVX512 __attribute__((target("avx512f,avx512bw")))

/* to, 16 pairs of rows n by 16 columns k, from 8 pairs of rows k by 32 columns n; both PANEL pairs a
 * row. */
AVX512 static inline void transpose_tile(uint16_t *to, const uint16_t *from)
{
    const __m512i step = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8,
                                          8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i even = _mm512_add_epi16(_mm512_slli_epi16(step, 2), _mm512_set1_epi32(2 << 16)),
                  odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    __m512i rows[16];
    for (int i = 0; i < 8; i++) {
        const uint16_t *at = from + i * PANEL * PAIR;
        const __m512i low = _mm512_loadu_si512(at), high = _mm512_loadu_si512(at + 32);
        rows[2 * i] = _mm512_permutex2var_epi16(low, even, high);
        rows[2 * i + 1] = _mm512_permutex2var_epi16(low, odd, high);
    }
    transpose_dwords(rows);
    for (int i = 0; i < 16; i++)
        _mm512_storeu_si512(to + i * PANEL * PAIR, rows[i]);
}

/* The paired layouts' zeros behind the last row and column travel with the rest; columns that only
 * `to` fills up with become zero. */
AVX512 static void transpose_paired(uint16_t *to, const dnnl_memory_desc_t *to_layout,
                                    int64_t to_row, const uint16_t *from,
                                    const dnnl_memory_desc_t *from_layout, int64_t from_row)
{
    const int64_t n_end = bl_min(from_layout->padded_dims[1], to_layout->padded_dims[0] - to_row);
    const int64_t k_end = from_layout->padded_dims[0] - from_row;
    for (int64_t n = 0; n < n_end; n += 32)
        for (int64_t k = 0; k < to_layout->padded_dims[1]; k += 16) {
            uint16_t *at = to + offset_of(to_layout, true, to_row + n, k);
            if (k < k_end)
                transpose_tile(at, from + offset_of(from_layout, true, from_row + k, n));
            else
                for (int i = 0; i < 16; i++)
                    _mm512_storeu_si512(at + i * PANEL * PAIR, _mm512_setzero_si512());
        }
}
#endif

void packed_transpose(const struct packed *packed, int64_t b, void *block,
                      const struct packed *from, int64_t from_b, const void *from_block)
{
    const struct width *to_width = width_of(packed, b), *from_width = width_of(from, from_b);
    BL_ASSERT(packed->K == from->N && packed->N == from->K);
    const int64_t to_row = from_b * from->block, from_row = b * packed->block;
#ifdef CPU_X86
    if (is_paired(&to_width->layout) && is_paired(&from_width->layout)) {
        transpose_paired(block, &to_width->layout, to_row, from_block, &from_width->layout,
                         from_row);
        return;
    }
#endif
    transpose_plainly(block, &to_width->layout, to_row, from_block, &from_width->layout, from_row);
}

/* -- products -- */

static int row_index(int64_t rows)
{
    int i = 0;
    while (row_counts[i] < rows)
        i++;
    return i;
}

int64_t packed_rows(int64_t rows)
{
    return row_counts[row_index(rows)];
}

size_t packed_scratch(const struct packed *packed)
{
    return packed->scratch_bytes;
}

void packed_multiply(const struct packed *packed, int64_t b, const void *block, float *y,
                     const uint16_t *x, int64_t rows, void *scratch)
{
    const struct width *w = width_of(packed, b);
    const int i = row_index(rows);
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, memory_at(&w->x[i], x)},
        {DNNL_ARG_WEIGHTS, memory_at(&w->layout, block)},
        {DNNL_ARG_DST, memory_at(&w->y[i], y)},
        {DNNL_ARG_SCRATCHPAD, memory_at(&w->scratch[i], scratch)},
    };
    dnnl_status_t status = dnnl_primitive_execute(w->product[i], stream, 4, args);
    BL_ASSERT(status == dnnl_success);
    for (int j = 0; j < 4; j++)
        dnnl_memory_destroy(args[j].memory);
}
