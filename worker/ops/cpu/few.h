/* worker/ops/cpu/few.h - y (R,N) = x (R,K) W^T for so few rows that the product waits for W: a decoder's step.
 *
 * The library, or blocks of integers, would first lay out W for many rows. Here its rows are read once, as they lie, and
 * those that come next are fetched meanwhile. An element's order of summation is K's alone.
 */
#pragma once

#include "worker/ops/cpu/matrix.h"

enum { FEW_ROWS = 8 };

static inline bool is_few(const struct ops_matrix *w, int64_t R)
{
    return R <= FEW_ROWS && (w->dtype == BL_F32 || w->dtype == BL_BF16);
}

/* Columns [n0, n0 + columns) of y; R at most FEW_ROWS. */
void CPU_VARIANT(few_rows)(float *y, const float *x, const struct ops_matrix *w, int64_t R,
                           int64_t n0, int64_t columns);
