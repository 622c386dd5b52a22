/* worker/ops/cpu/linear_few.c - y (R,N) = x (R,K) W^T for so few rows that the product waits for W: a decoder's step.
 *
 * The library, or panels, would first lay out W for many rows. Here its rows are read once, as they lie, and
 * those that come next are fetched meanwhile: they follow one another too shortly for the processor's own prefetching. Tiles are
 * rows of x by rows of W, whose sums stay in registers. An element's order of summation is K's alone.
 *
 * By tiles   where W's rows fill tiles as they lie (panels.h), with x rounded to bf16.
 */
#include "worker/ops/cpu/linear.h"

#include "worker/ops/cpu/panels.h"
#include "worker/ops/cpu/tiles.h"
#include "worker/ops/cpu/vector.h"

/* A tile's sums, its rows of W and one of x take 28 of 32 registers, or 16 of 16. */
enum { TILE_ROWS = VECTOR == 16 ? 8 : 4, TILE_COLUMNS = 3 };

/* VECTOR values of a row from k on. */
static inline __attribute__((always_inline)) vector read_vector(const void *row, bool half,
                                                                int64_t k)
{
    if (!half)
        return *(const vector *)((const float *)row + k);
    return widened(*(const half_vector *)((const uint16_t *)row + k));
}

/* Elements of a row at a time: eight rows of x stay in the L1 cache; columns that a thread takes at a time. */
enum { INNER = 1024, COLUMNS = 192 };

/* Rows of W from an element on, how many bytes further on the next ones lie, and how many elements count. */
struct tile {
    const char *w[TILE_COLUMNS];
    size_t next;
    bool half;
    int64_t inner;
};

/* y[r][i] = row r of x, rows `ld` apart, times row i of W. `rows` and `half` are constants at each call. */
static inline __attribute__((always_inline)) void dot_tile(float y[TILE_ROWS][TILE_COLUMNS],
                                                           const float *x, int64_t ld,
                                                           const struct tile *t, bool half,
                                                           int rows)
{
    vector sum[TILE_ROWS][TILE_COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < TILE_COLUMNS; i++)
            sum[r][i] = (vector){0};
    int64_t k = 0;
    for (; k + VECTOR <= t->inner; k += VECTOR) {
        vector wide[TILE_COLUMNS];
        for (int i = 0; i < TILE_COLUMNS; i++) {
            wide[i] = read_vector(t->w[i], half, k);
            __builtin_prefetch(t->w[i] + t->next + (half ? 2 : 4) * k, 0, 2);
        }
        for (int r = 0; r < rows; r++) {
            const vector x_r = *(const vector *)(x + r * ld + k);
            for (int i = 0; i < TILE_COLUMNS; i++)
                sum[r][i] += x_r * wide[i];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < TILE_COLUMNS; i++) {
            float total = total_of(sum[r][i]);
            for (int64_t rest = k; rest < t->inner; rest++)
                total += x[r * ld + rest] * (half ? bf16_to_f32(((const uint16_t *)t->w[i])[rest])
                                                  : ((const float *)t->w[i])[rest]);
            y[r][i] = total;
        }
}

static void dot_rows(float y[TILE_ROWS][TILE_COLUMNS], const float *x, int64_t ld,
                     const struct tile *t, int64_t rows)
{
    if (rows == TILE_ROWS)
        t->half ? dot_tile(y, x, ld, t, true, TILE_ROWS) : dot_tile(y, x, ld, t, false, TILE_ROWS);
    else if (rows == 4)
        t->half ? dot_tile(y, x, ld, t, true, 4) : dot_tile(y, x, ld, t, false, 4);
    else if (rows == 2)
        t->half ? dot_tile(y, x, ld, t, true, 2) : dot_tile(y, x, ld, t, false, 2);
    else
        t->half ? dot_tile(y, x, ld, t, true, 1) : dot_tile(y, x, ld, t, false, 1);
}

static int64_t rows_at_once(int64_t left)
{
    return left >= TILE_ROWS ? TILE_ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* y, columns [n, n + count), = or += x times these rows of W, by the elements of t. */
static void multiply_columns(float *y, const float *x, const struct tile *t, int64_t R, int64_t N,
                             int64_t K, int64_t count, bool add)
{
    for (int64_t r = 0, rows; r < R; r += rows) {
        float sums[TILE_ROWS][TILE_COLUMNS];
        rows = rows_at_once(R - r);
        dot_rows(sums, x + r * K, K, t, rows);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < count; j++)
                y[(r + i) * N + j] = (add ? y[(r + i) * N + j] : 0) + sums[i][j];
    }
}

/* Columns [n0, n0 + columns) of the product, without its end. */
static void few_rows(const struct linear_product *p, int64_t n0, int64_t columns)
{
    const struct ops_matrix *w = p->w;
    const int64_t N = p->N, K = p->K, end = n0 + columns;
    struct tile t = {.half = w->dtype == BL_BF16};
    const size_t group = (size_t)(TILE_COLUMNS * K) * (t.half ? 2 : 4);
    for (int64_t k = 0; k < K; k += INNER) {
        t.inner = bl_min(INNER, K - k);
        for (int64_t n = n0; n < end; n += TILE_COLUMNS) {
            const int64_t count = bl_min(TILE_COLUMNS, end - n);
            for (int64_t i = 0; i < TILE_COLUMNS; i++)
                t.w[i] = matrix_at(w, (n + bl_min(i, count - 1)) * K + k);
            t.next = n + 2 * TILE_COLUMNS <= N ? group : 0;
            multiply_columns(p->y + n, p->x + k, &t, p->R, N, K, count, k > 0);
        }
    }
}

/* Columns [n0, n0 + columns) likewise by tiles (panels.h). */
static void few_rows_by_tiles(const struct linear_product *p, const void *x, int64_t n0,
                              int64_t columns)
{
    p->w->form->multiply_few(p->y + n0, p->N, x, p->R, (const uint16_t *)matrix_at(p->w, n0 * p->K),
                             columns, p->N - n0 - columns, p->K);
}

static bool has_tiles(const struct ops_matrix *w)
{
    return w->form && w->form->multiply_few && w->dtype == BL_BF16 &&
           w->K % PANELS_FEW_INNER == 0 && w->N % PANELS_FEW_COLUMNS == 0;
}

bool CPU_VARIANT(is_few)(const struct linear_product *p)
{
    enum { FEW_ROWS = 8 };
    const bool in_place = p->w->dtype == BL_F32 || p->w->dtype == BL_BF16;
    return !p->transposed && in_place && p->R <= (has_tiles(p->w) ? PANELS_FEW_ROWS : FEW_ROWS);
}

void CPU_VARIANT(multiply_few)(struct cpu *cpu, const struct linear_product *p)
{
    const int64_t R = p->R, N = p->N;
    const bool tiles = has_tiles(p->w);
    void *x = NULL;
    if (tiles) {
        x = cpu_scratch(cpu, CPU_SCRATCH_INNER, p->w->form->strip_bytes(p->K));
        if (!x)
            return;
    }
    if (cpu->dry)
        return;
    if (tiles)
        p->w->form->load_few(x, p->x, R, p->K);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, p->K)))
    for (int64_t n0 = 0; n0 < N; n0 += COLUMNS) {
        const int64_t columns = bl_min(COLUMNS, N - n0);
        if (tiles)
            few_rows_by_tiles(p, x, n0, columns);
        else
            few_rows(p, n0, columns);
        finish_rows(p, p->y + n0, N, 0, R, n0, columns);
    }
}
