/* worker/ops/cpu/matmul.c - linear layers: y (R,N) = f(x (R,K) W^T + b),  W (N,K).
 *
 * Backward   d_x = d_y W,  d_W = d_y^T x,  d_b = sum over rows of d_y.
 * Tiles      the result is cut into tiles, each one single-threaded sgemm over the whole inner
 *            dimension (a fixed number of them, one after the other, where W has to be widened and
 *            its scratch is bounded). OpenMP spreads the tiles. So an element's order of summation
 *            is the library's for a shape that R, N and K decide alone.
 * W          as matrix.h keeps it: f32, or widened tile by tile into a thread's scratch, or loaded likewise as
 *            blocks of integers (bfp.h), or packed for bf16 products, where x is rounded row by row. d_W is a
 *            product of f32 values, or, where it is large and others are blocks, of blocks along rows.
 * Rate       f32 140 to 190 GFLOP/s, d_W 155 to 180; bf16 400 to 970, least where few inner elements
 *            meet many rows, so that y's way to memory counts. Larger f32 tiles, and f32 matrices
 *            packed as for bf16, were measured too and are no faster.
 */
#include "worker/ops/cpu/matrix.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <string.h>

#include "worker/ops/cpu/bfp.h"
#include "worker/ops/cpu/few.h"
#include "worker/ops/cpu/packed.h"
#include "worker/ops/cpu/product.h"

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

/* Measured (AVX-512, one core, 192 to 3072 columns): tiles of 128 x 384, and of many rows 256 x
 * 384, come within a tenth of the library on the whole, and leave enough of them for the threads, or 128 x 144 where
 * there would be few (144 x 2048 by 64 rows: 118 GFLOP/s of 121, 96 columns: 90). 48 columns and 8 rows are its step.
 * Where W is widened tile by tile, more rows share the work. */
static struct tiles tiles_of(int64_t rows, int64_t columns, bool widened)
{
    const int64_t most = widened ? 512 : rows < 1024 ? 128 : 256;
    const bool scarce = bl_ceil_div(rows, most) * bl_ceil_div(columns, 384) < 4;
    struct tiles t = {.rows = even_block(rows, most, 8),
                      .columns = even_block(columns,
                                            widened  ? 192
                                            : scarce ? 144
                                                     : 384,
                                            48)};
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

/* y = product (which may be y), or, without a bias, += product; and the end of it. */
static void finish_row(float *y, const float *product, bool accumulate, float *saved_pre,
                       const float *bias, int64_t count, enum ops_epilogue epilogue)
{
    if (accumulate)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] += product[i];
    else if (bias)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = product[i] + bias[i];
    else if (y != product)
        memcpy(y, product, (size_t)count * sizeof *y);
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

/* y (R,N) = or += x (R,K) B, and its end. */
struct packed_product {
    const struct packed *packed, *from; /* B's format; where its transpose is kept, that one's */
    const char *data;                   /* the blocks of B, or of `from` */
    float *y, *saved_pre;
    const float *x, *bias;
    int64_t R, N, K;
    enum ops_epilogue epilogue;
    bool accumulate;
};

/* Blocks of B made from its transpose at a time: enough for all threads, and few enough for the cache
 * where that leaves a choice. */
enum { MADE_BYTES = 8 << 20 };

static int64_t blocks_at_once(const struct cpu *cpu, const struct packed_product *p, int64_t tiles)
{
    const int64_t blocks = packed_block_count(p->packed);
    if (!p->from)
        return blocks;
    const int64_t fitting = MADE_BYTES / (int64_t)packed_block_bytes(p->packed);
    return bl_min(blocks, bl_max(fitting, bl_ceil_div(cpu->threads, tiles)));
}

/* Blocks [first, first + count) of B into `made`. */
static void make_blocks(const struct packed_product *p, char *made, int64_t first, int64_t count,
                        int threads)
{
    const size_t to_bytes = packed_block_bytes(p->packed), from_bytes = packed_block_bytes(p->from);
    const int64_t from_blocks = packed_block_count(p->from);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < count * from_blocks; i++) {
        const int64_t b = i / from_blocks, from_b = i % from_blocks;
        packed_transpose(p->packed, first + b, made + (size_t)b * to_bytes, p->from, from_b,
                         p->data + (size_t)from_b * from_bytes);
    }
}

/* Rows [r0, r0 + count) of a product's block are done: to y, and the end. */
static void finish_tile(const struct packed_product *p, const float *tile, int64_t r0,
                        int64_t count, int64_t n0, int64_t columns)
{
    for (int64_t r = 0; r < count; r++) {
        const int64_t at = (r0 + r) * p->N + n0;
        finish_row(p->y + at, tile + r * columns, p->accumulate,
                   p->saved_pre ? p->saved_pre + at : NULL, p->bias ? p->bias + n0 : NULL, columns,
                   p->epilogue);
    }
}

static size_t whole_lines(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static void multiply_packed(struct cpu *cpu, const struct packed_product *p)
{
    const int64_t tiles = bl_ceil_div(p->R, PACKED_ROWS_MAX), rows = tiles * PACKED_ROWS_MAX;
    const int64_t blocks = packed_block_count(p->packed), at_once = blocks_at_once(cpu, p, tiles);
    const size_t block_bytes = packed_block_bytes(p->packed);
    int64_t first, widest;
    packed_block(p->packed, 0, &first, &widest);
    const size_t x_bytes = whole_lines((size_t)(rows * p->K) * sizeof(uint16_t));
    const size_t made_bytes = p->from ? block_bytes * (size_t)at_once : 0;
    const size_t tile_bytes = (size_t)(PACKED_ROWS_MAX * widest) * sizeof(float);
    const size_t thread_bytes = tile_bytes + whole_lines(packed_scratch(p->packed));
    char *scratch = cpu_scratch(cpu, CPU_SCRATCH_INNER,
                                x_bytes + made_bytes + thread_bytes * (size_t)cpu->threads);
    if (!scratch || cpu->dry)
        return;
    uint16_t *x = (uint16_t *)scratch;
    char *made = scratch + x_bytes, *threads_scratch = made + made_bytes;
    const int threads = cpu_threads(cpu, work_of(p->R, p->N, p->K));
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++)
        if (r < p->R)
            narrow(x + r * p->K, p->x + r * p->K, p->K);
        else
            memset(x + r * p->K, 0, (size_t)p->K * sizeof *x);
    for (int64_t b0 = 0; b0 < blocks; b0 += at_once) {
        const int64_t some = bl_min(at_once, blocks - b0);
        if (p->from)
            make_blocks(p, made, b0, some, threads);
        const char *data = p->from ? made : p->data;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int64_t i = 0; i < tiles * some; i++) {
            char *mine = threads_scratch + (size_t)omp_get_thread_num() * thread_bytes;
            int64_t r0 = i % tiles * PACKED_ROWS_MAX, b = i / tiles, n0, columns;
            const int64_t count = bl_min(PACKED_ROWS_MAX, p->R - r0);
            packed_block(p->packed, b0 + b, &n0, &columns);
            packed_multiply(p->packed, b0 + b, data + (size_t)b * block_bytes, (float *)mine,
                            x + r0 * p->K, packed_rows(count), mine + tile_bytes);
            finish_tile(p, (const float *)mine, r0, count, n0, columns);
        }
    }
}

/* -- products in block floating point -- */

/* y (R,N) = or += x (R,K) B, and its end; B is W^T, or, transposed, W. */
struct block_product {
    const struct ops_matrix *w;
    bool transposed;
    float *y, *saved_pre;
    const float *x, *bias;
    int64_t R, N, K;
    enum ops_epilogue epilogue;
    bool accumulate;
};

/* Strips of rows multiplied with a panel at a time: these, a block of the panel and y fit the L1 cache. */
enum { STRIPS = 6 };

/* A tile is `strips` strips and `panels` panels, which one thread loads: whole, or, with few rows, some blocks of
 * them at a time, which are multiplied with all rows while the cache holds them. These are as long along W's rows as
 * the cache allows. */
struct block_tiles {
    bool few;
    int64_t strips, panels, blocks, strip_count, panel_count, count;
};
enum { FEW_STRIPS = 32 };

/* Panels are loaded again for each tile of rows, so rows are divided only where there would be too few tiles
 * for the threads. No tile changes a result. */
static struct block_tiles block_tiles_of(const struct cpu *cpu, int64_t R, int64_t N,
                                         bool transposed)
{
    const int64_t strips = bl_ceil_div(R, BFP_STRIP), panels = bl_ceil_div(N, BFP_PANEL);
    const int64_t wanted = cpu->threads > 1 ? 4 * cpu->threads : 1;
    struct block_tiles t = {.few = strips <= FEW_STRIPS};
    t.panels = t.few && transposed ? 8 : 4;
    t.blocks = transposed ? 1 : 2;
    while (t.panels > 1 && bl_ceil_div(panels, t.panels) < wanted)
        t.panels /= 2;
    t.panel_count = bl_ceil_div(panels, t.panels);
    const int64_t most = t.few ? 1 : bl_ceil_div(strips, STRIPS);
    const int64_t parts = bl_min(bl_ceil_div(wanted, t.panel_count), most);
    t.strips = bl_ceil_div(strips, parts);
    t.strip_count = bl_ceil_div(strips, t.strips);
    t.count = t.panel_count * t.strip_count;
    return t;
}

/* `rows` rows from r0 on and the columns of a panel from n0 on are done: to y, and the end. */
static void finish_block(const struct block_product *p, const float *product, int64_t r0,
                         int64_t rows, int64_t n0)
{
    const int64_t columns = bl_min(BFP_PANEL, p->N - n0);
    for (int64_t r = 0; r < rows; r++, product += BFP_PANEL) {
        const int64_t at = (r0 + r) * p->N + n0;
        finish_row(p->y + at, product, p->accumulate, p->saved_pre ? p->saved_pre + at : NULL,
                   p->bias ? p->bias + n0 : NULL, columns, p->epilogue);
    }
}

/* W from its element (n, k) of the product on: where, and the distance of its rows. */
static const char *block_matrix_at(const struct block_product *p, int64_t n, int64_t k)
{
    return matrix_at(p->w, p->transposed ? k * p->N + n : n * p->K + k);
}
static int64_t block_matrix_ld(const struct block_product *p)
{
    return p->transposed ? p->N : p->K;
}

/* The rows of y that come next. */
static struct bfp_fetch fetch_y(const struct block_product *p, int64_t r0, int64_t rows, int64_t n0)
{
    return (struct bfp_fetch){.at = (const char *)(p->y + r0 * p->N + n0),
                              .step = (size_t)p->N * sizeof *p->y,
                              .bytes = BFP_PANEL * sizeof *p->y,
                              .rows = rows,
                              .shift = 4};
}

/* A tile, with its thread's panels and x's strips. */
static void multiply_tile(const struct block_product *p, const struct block_tiles *t, int64_t tile,
                          char *panels, const char *strips)
{
    float product[STRIPS * BFP_STRIP * BFP_PANEL] __attribute__((aligned(64)));
    const int64_t first = tile % t->strip_count * t->strips,
                  end = bl_min(first + t->strips, bl_ceil_div(p->R, BFP_STRIP));
    const int64_t n_first = tile / t->strip_count * t->panels * BFP_PANEL,
                  n_end = bl_min(p->N, n_first + t->panels * BFP_PANEL);
    const size_t strip_bytes = bfp_strip_bytes(p->K), panel_bytes = bfp_panel_bytes(p->K);
    bfp_load_panels(panels, block_matrix_at(p, n_first, 0), p->w->dtype, block_matrix_ld(p),
                    p->transposed, n_end - n_first, p->K);
    for (int64_t s = first; s < end; s += STRIPS)
        for (int64_t n = n_first; n < n_end; n += BFP_PANEL) {
            const int64_t count = bl_min(STRIPS, end - s), r0 = s * BFP_STRIP,
                          rows = bl_min(count * BFP_STRIP, p->R - r0);
            struct bfp_fetch fetch = fetch_y(p, r0, rows, n);
            bfp_multiply(product, strips + (size_t)s * strip_bytes, count, p->K,
                         panels + (size_t)((n - n_first) / BFP_PANEL) * panel_bytes, 0,
                         bfp_block_count(p->K), &fetch);
            finish_block(p, product, r0, rows, n);
        }
}

/* W from k on for columns [n_first, n_end) and the tile's blocks, nothing where k is its end; spread over the products
 * of as many, though never more at once than leaves a way from the L2 cache to the L1 cache free. */
static struct bfp_fetch fetch_blocks(const struct block_product *p, const struct block_tiles *t,
                                     int64_t n_first, int64_t n_end, int64_t k)
{
    const size_t size = p->w->dtype == BL_F32 ? 4 : 2;
    const int64_t inner = bl_min(t->blocks * BFP_BLOCK, p->K - k), columns = n_end - n_first;
    if (inner <= 0)
        return (struct bfp_fetch){.at = (const char *)p->y};
    struct bfp_fetch fetch = {.at = block_matrix_at(p, n_first, k),
                              .step = (size_t)block_matrix_ld(p) * size,
                              .bytes = (size_t)(p->transposed ? columns : inner) * size,
                              .rows = p->transposed ? inner : columns,
                              .shift = 1};
    const int64_t lines = fetch.rows * bl_ceil_div((int64_t)fetch.bytes, 64);
    const int64_t products = t->panels * t->strips * t->blocks;
    while (fetch.shift < 6 && lines << (fetch.shift + 1) <= products * BFP_BLOCK / 2)
        fetch.shift++;
    return fetch;
}

/* A tile of all rows; `mine`: y, panel after panel, then some blocks of the panels. While these are multiplied, the
 * next ones come from memory. */
static void multiply_few(const struct block_product *p, const struct block_tiles *t, int64_t tile,
                         char *mine, const char *strips)
{
    const int64_t n_first = tile * t->panels * BFP_PANEL,
                  n_end = bl_min(p->N, n_first + t->panels * BFP_PANEL);
    const int64_t panel_floats = t->strips * BFP_STRIP * BFP_PANEL;
    const size_t strip_bytes = bfp_strip_bytes(p->K);
    float *products = (float *)mine;
    char *panels = mine + (size_t)(t->panels * panel_floats) * sizeof *products;
    for (int64_t b = 0; b < bfp_block_count(p->K); b += t->blocks) {
        const int64_t k = b * BFP_BLOCK, inner = bl_min(t->blocks * BFP_BLOCK, p->K - k);
        struct bfp_fetch fetch = fetch_blocks(p, t, n_first, n_end, k + inner);
        bfp_load_panels(panels, block_matrix_at(p, n_first, k), p->w->dtype, block_matrix_ld(p),
                        p->transposed, n_end - n_first, inner);
        for (int64_t i = 0; n_first + i * BFP_PANEL < n_end; i++)
            for (int64_t s = 0; s < t->strips; s += STRIPS)
                bfp_multiply(products + i * panel_floats + s * BFP_STRIP * BFP_PANEL,
                             strips + (size_t)s * strip_bytes, bl_min(STRIPS, t->strips - s), p->K,
                             panels + (size_t)i * bfp_panel_bytes(inner), b,
                             b + bfp_block_count(inner), &fetch);
    }
    for (int64_t i = 0; n_first + i * BFP_PANEL < n_end; i++)
        finish_block(p, products + i * panel_floats, 0, p->R, n_first + i * BFP_PANEL);
}

static size_t block_thread_bytes(const struct block_product *p, const struct block_tiles *t)
{
    const size_t y = (size_t)(t->strips * BFP_STRIP * BFP_PANEL) * sizeof(float);
    return (size_t)t->panels *
           (t->few ? y + bfp_panel_bytes(t->blocks * BFP_BLOCK) : bfp_panel_bytes(p->K));
}

static void multiply_blocks(struct cpu *cpu, const struct block_product *p)
{
    const struct block_tiles t = block_tiles_of(cpu, p->R, p->N, p->transposed);
    const int64_t strips = bl_ceil_div(p->R, BFP_STRIP);
    const size_t strip_bytes = bfp_strip_bytes(p->K);
    const size_t thread_bytes = block_thread_bytes(p, &t);
    char *scratch = cpu_scratch(cpu, CPU_SCRATCH_INNER,
                                strip_bytes * (size_t)strips + thread_bytes * (size_t)cpu->threads);
    if (!scratch || cpu->dry)
        return;
    char *mine = scratch + strip_bytes * (size_t)strips;
    const int threads = cpu_threads(cpu, work_of(p->R, p->N, p->K));
#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < strips; s++)
        bfp_load_strip(scratch + (size_t)s * strip_bytes, p->x + s * BFP_STRIP * p->K, p->K,
                       bl_min(BFP_STRIP, p->R - s * BFP_STRIP), p->K);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < t.count; i++)
        (t.few ? multiply_few : multiply_tile)(
            p, &t, i, mine + (size_t)omp_get_thread_num() * thread_bytes, scratch);
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
        if (CPU_VARIANT(matrix_packed)(cpu, w, false))
            multiply_packed(cpu, &(struct packed_product){.packed = w->packing->forward,
                                                          .data = w->packing->data,
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
    const bool few = is_few(w, R);
    if (w->blocks && !few) {
        multiply_blocks(cpu, &(struct block_product){.w = w,
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
    const bool widened = w->dtype != BL_F32 && !few;
    size_t stride = 0;
    char *scratch = NULL;
    if (widened) {
        size_t bytes = (size_t)(t.columns * K) * sizeof(float);
        scratch = cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, bytes, &stride);
        if (!scratch)
            return;
    }
    if (cpu->dry)
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t r0 = i % t.row_count * t.rows, n0 = i / t.row_count * t.columns;
        int64_t rows = bl_min(t.rows, R - r0), columns = bl_min(t.columns, N - n0);
        const float *b = (const float *)matrix_at(w, n0 * K);
        if (widened) {
            float *wide = (float *)(scratch + (size_t)omp_get_thread_num() * stride);
            widen(wide, matrix_at(w, n0 * K), w->dtype, columns * K);
            b = wide;
        }
        if (few)
            CPU_VARIANT(few_rows)(y, x, w, R, n0, columns);
        else
            sgemm('N', 'T', rows, columns, K, x + r0 * K, K, b, K, 0, y + r0 * N + n0, N);
        for (int64_t r = r0; r < r0 + rows; r++)
            finish_row(y + r * N + n0, y + r * N + n0, false,
                       saved_pre ? saved_pre + r * N + n0 : NULL, bias ? bias + n0 : NULL, columns,
                       epilogue);
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
        if (CPU_VARIANT(matrix_packed)(cpu, w, true))
            multiply_packed(cpu, &(struct packed_product){.packed = w->packing->backward,
                                                          .from = w->packing->forward,
                                                          .data = w->packing->data,
                                                          .y = d_x,
                                                          .x = d_y,
                                                          .R = R,
                                                          .N = K,
                                                          .K = N,
                                                          .accumulate = accumulate});
        return;
    }
    if (w->blocks) {
        multiply_blocks(cpu, &(struct block_product){.w = w,
                                                     .transposed = true,
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
    if (cpu->dry)
        return;
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
    if (!partial || cpu->dry)
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

/* -- the gradient of a large matrix by few rows -- */

/* It waits for d_W's way from memory and back, so d_W is passed once, along its rows: ROWS of them at a time
 * for all columns. x is laid out in strips of columns for all threads, d_y by each. */
enum { FEW_ROWS_WEIGHT = 128, FEW_ROWS_ELEMENTS = 1 << 20, ROWS = 16, COLUMNS = WIDE * VECTOR };

static void gradient_rows(float *d_w, const float *d_y, const float *strips, float *mine, int64_t R,
                          int64_t N, int64_t K, int64_t n0)
{
    const int64_t rows = bl_min(ROWS, N - n0);
    for (int64_t r = 0; r < R; r++)
        memcpy(mine + r * ROWS, d_y + r * N + n0, (size_t)rows * sizeof *mine);
    for (int64_t k = 0; k < K; k += COLUMNS) {
        for (int64_t r = 0; r < rows; r++) /* what comes next */
            for (int64_t i = 0; i < COLUMNS; i += 16)
                __builtin_prefetch(d_w + (n0 + r) * K + bl_min(K - 1, k + COLUMNS + i), 1);
        product(&(struct product){.M = rows,
                                  .N = bl_min(COLUMNS, K - k),
                                  .K = R,
                                  .alpha = 1,
                                  .a = mine,
                                  .a_row = 1,
                                  .a_column = ROWS,
                                  .b = strips + k * R,
                                  .ld_b = COLUMNS,
                                  .y = d_w + n0 * K + k,
                                  .ld_y = K,
                                  .add = true});
    }
}

static void gradient_by_few_rows(struct cpu *cpu, float *d_w, const float *d_y, const float *x,
                                 int64_t R, int64_t N, int64_t K)
{
    const int64_t count = bl_ceil_div(K, COLUMNS);
    float *strips =
        cpu_scratch(cpu, CPU_SCRATCH_INNER,
                    (size_t)(R * (count * COLUMNS + cpu->threads * ROWS)) * sizeof *strips);
    if (!strips || cpu->dry)
        return;
    float *threads_rows = strips + count * COLUMNS * R;
    const int threads = cpu_threads(cpu, work_of(R, N, K));
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        for (int64_t r = 0; r < R; r++) {
            float *to = strips + (i * R + r) * COLUMNS;
            const int64_t columns = bl_min(COLUMNS, K - i * COLUMNS);
            memcpy(to, x + r * K + i * COLUMNS, (size_t)columns * sizeof *to);
            memset(to + columns, 0, (size_t)(COLUMNS - columns) * sizeof *to);
        }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t n = 0; n < N; n += ROWS)
        gradient_rows(d_w, d_y, strips, threads_rows + omp_get_thread_num() * ROWS * R, R, N, K, n);
}

/* -- the gradient of a large matrix in block floating point -- */

/* Blocks are cut along the rows of x and d_y. x is laid out in panels for all threads; d_W is passed once, GRADIENT_ROWS
 * of its rows at a time, for which d_y is laid out in strips. */
enum { GRADIENT_STRIPS = 4, GRADIENT_ROWS = GRADIENT_STRIPS * BFP_STRIP, GRADIENT_R_MIN = 32 };

struct block_gradient {
    float *d_w;
    const float *d_y;
    const char *panels;
    int64_t R, N, K;
};

/* A thread's scratch: d_y's rows turned, and their strips. */
static size_t gradient_bytes(int64_t R)
{
    return whole_lines((size_t)(GRADIENT_ROWS * padded(R)) * sizeof(float)) +
           GRADIENT_STRIPS * bfp_strip_bytes(R);
}

static void gradient_block_rows(const struct block_gradient *g, int64_t n0, char *mine)
{
    float product[GRADIENT_ROWS * BFP_PANEL] __attribute__((aligned(64)));
    const int64_t R = g->R, K = g->K, rows = bl_min(GRADIENT_ROWS, g->N - n0), ld = padded(R);
    float *d_y = (float *)mine;
    char *strips = mine + whole_lines((size_t)(GRADIENT_ROWS * ld) * sizeof *d_y);
    pack_transposed(d_y, g->d_y + n0, g->N, R, rows);
    bfp_load_strips(strips, d_y, ld, rows, R);
    for (int64_t k = 0; k < K; k += BFP_PANEL) {
        const int64_t columns = bl_min(BFP_PANEL, K - k);
        float *d_w = g->d_w + n0 * K + k;
        struct bfp_fetch next = {.at = (const char *)(d_w + columns),
                                 .step = (size_t)K * sizeof *d_w,
                                 .bytes = BFP_PANEL * sizeof *d_w,
                                 .rows = rows,
                                 .shift = 1};
        bfp_multiply(product, strips, bl_ceil_div(rows, BFP_STRIP), R,
                     g->panels + (size_t)(k / BFP_PANEL) * bfp_panel_bytes(R), 0,
                     bfp_block_count(R), &next);
        for (int64_t r = 0; r < rows; r++)
            finish_row(d_w + r * K, product + r * BFP_PANEL, true, NULL, NULL, columns, OPS_NONE);
    }
}

static void gradient_in_blocks(struct cpu *cpu, float *d_w, const float *d_y, const float *x,
                               int64_t R, int64_t N, int64_t K)
{
    enum { TOGETHER = 8 };
    const int64_t count = bl_ceil_div(K, BFP_PANEL);
    const size_t panels_bytes = (size_t)count * bfp_panel_bytes(R), mine = gradient_bytes(R);
    char *panels = cpu_scratch(cpu, CPU_SCRATCH_INNER, panels_bytes + mine * (size_t)cpu->threads);
    if (!panels || cpu->dry)
        return;
    const struct block_gradient gradient = {d_w, d_y, panels, R, N, K};
    const int threads = cpu_threads(cpu, work_of(R, N, K));
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i += TOGETHER)
        bfp_load_panels(panels + (size_t)i * bfp_panel_bytes(R), x + i * BFP_PANEL, BL_F32, K, true,
                        bl_min(TOGETHER * BFP_PANEL, K - i * BFP_PANEL), R);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t n = 0; n < N; n += GRADIENT_ROWS)
        gradient_block_rows(&gradient, n,
                            panels + panels_bytes + (size_t)omp_get_thread_num() * mine);
}

static void linear_backward_weight(struct ops *self, float *d_w, float *d_bias, const act *d_y_,
                                   const act *x_, int64_t R, int64_t N, int64_t K)
{
    if (R == 0)
        return;
    struct cpu *cpu = cpu_of(self);
    const float *d_y = cpu_const_f32(d_y_), *x = cpu_const_f32(x_);
    if (d_bias)
        add_column_sums(cpu, d_bias, d_y, R, N);
    if (cpu->blocks && N * K > cpu->blocks_min && R >= GRADIENT_R_MIN) {
        gradient_in_blocks(cpu, d_w, d_y, x, R, N, K);
        return;
    }
    if (R <= FEW_ROWS_WEIGHT && N * K >= FEW_ROWS_ELEMENTS) {
        gradient_by_few_rows(cpu, d_w, d_y, x, R, N, K);
        return;
    }
    if (cpu->dry)
        return;
    const struct tiles t = tiles_of(N, K, false);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t n0 = i % t.row_count * t.rows, k0 = i / t.row_count * t.columns;
        sgemm('T', 'N', bl_min(t.rows, N - n0), bl_min(t.columns, K - k0), R, d_y + n0, N, x + k0,
              K, 1, d_w + n0 * K + k0, K);
    }
}

static void linear_add(struct ops *self, act *y, const act *base, const act *x,
                       const struct ops_matrix *w, const float *bias, int64_t R)
{
    self->linear_forward(self, y, NULL, x, w, bias, R, OPS_NONE);
    self->add(self, y, y, base, R * w->N);
}

void CPU_VARIANT(cpu_fill_matmul)(struct ops *table)
{
    table->linear_forward = linear_forward;
    table->linear_add = linear_add;
    table->linear_backward_input = linear_backward_input;
    table->linear_backward_weight = linear_backward_weight;
}
