/* worker/ops/cpu/product.h - small matrix products on data at hand in the caches: a call of the
 * matmul library costs as much as 16 x 64 x 24 multiplications, which is a head of a small model.
 *
 * y (M,N) = alpha a b, or += : a[i a_row + k a_column] (so that it may be transposed), b (K,N) in
 * rows of ld_b with readable memory up to the next multiple of VECTOR columns. Tiles of TILE_ROWS rows by
 * WIDE vectors stay in registers for all of K, and their loops over rows and vectors are short and
 * bare, so that compilers unroll them: an element's sum runs over k in order, whatever the tile.
 */
#pragma once

#include <stdbool.h>

#include "worker/ops/cpu/pack.h"

/* A tile, whose sums the registers hold beside a row of b and an element of a: 24 of 32, or 12 of 16. */
enum { TILE_ROWS = 6, WIDE = VECTOR == 16 ? 4 : 2 };

struct product {
    int64_t M, N, K;
    float alpha;
    const float *a;
    int64_t a_row, a_column;
    const float *b;
    int64_t ld_b;
    float *y;
    int64_t ld_y;
    bool add;
};

/* The sums of a tile of which `columns` lie within y. */
static __attribute__((noinline)) void product_edge(const struct product *p, float *y,
                                                   vector sum[TILE_ROWS][WIDE], int rows,
                                                   int vectors, int64_t columns)
{
    for (int i = 0; i < rows; i++) {
        float line[WIDE * VECTOR];
        for (int v = 0; v < vectors; v++)
            *(vector *)(line + v * VECTOR) = p->alpha * sum[i][v];
        for (int64_t j = 0; j < columns; j++)
            y[i * p->ld_y + j] = (p->add ? y[i * p->ld_y + j] : 0) + line[j];
    }
}

/* `rows` and `vectors` are constants at each call. */
static inline __attribute__((always_inline)) void product_tile(const struct product *p, int64_t i0,
                                                               int64_t j0, int rows, int vectors)
{
    vector sum[TILE_ROWS][WIDE];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            sum[i][v] = (vector){0};
    const float *a = p->a + i0 * p->a_row, *b = p->b + j0;
    float *y = p->y + i0 * p->ld_y + j0;
    for (int64_t k = 0; k < p->K; k++, a += p->a_column, b += p->ld_b)
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++)
                sum[i][v] += a[i * p->a_row] * *(const vector *)(b + v * VECTOR);
    if (p->N - j0 < vectors * VECTOR)
        product_edge(p, y, sum, rows, vectors, p->N - j0);
    else if (p->add)
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++)
                *(vector *)(y + i * p->ld_y + v * VECTOR) += p->alpha * sum[i][v];
    else
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++)
                *(vector *)(y + i * p->ld_y + v * VECTOR) = p->alpha * sum[i][v];
}

/* A strip of `vectors` columns, which stays in the L1 cache for all rows. */
static inline __attribute__((always_inline)) void product_strip(const struct product *p, int64_t j0,
                                                                int vectors)
{
    int64_t i = 0;
    for (; i + TILE_ROWS <= p->M; i += TILE_ROWS)
        product_tile(p, i, j0, TILE_ROWS, vectors);
    for (; i + 4 <= p->M; i += 4)
        product_tile(p, i, j0, 4, vectors);
    for (; i + 2 <= p->M; i += 2)
        product_tile(p, i, j0, 2, vectors);
    for (; i < p->M; i++)
        product_tile(p, i, j0, 1, vectors);
}

/* Strips as equal as can be: a tile of few vectors waits for its own sums. */
static void product(const struct product *p)
{
    int64_t j = 0, left = padded(p->N) / VECTOR;
    while (left > 0) {
        const int64_t vectors = bl_ceil_div(left, bl_ceil_div(left, WIDE));
        switch (vectors) {
        case 4:
            product_strip(p, j, WIDE);
            break;
        case 3:
            product_strip(p, j, WIDE > 3 ? 3 : WIDE);
            break;
        case 2:
            product_strip(p, j, 2);
            break;
        default:
            product_strip(p, j, 1);
        }
        j += vectors * VECTOR;
        left -= vectors;
    }
}
