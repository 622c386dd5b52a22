/* worker/ops/cpu/packed.h - bf16 products with matrices laid out once in the library's own format:
 * y (M,N) f32 = x (M,K) bf16 times B (K,N) bf16, sums in f32.
 *
 * B is cut into blocks of columns. A product is of one block with M rows, M from a short list (rows
 * are filled up to it), so all primitives exist from the start and none is looked up while
 * computing. Each is single-threaded and takes its scratch from the caller: threads may run blocks
 * side by side. For AMX the library asks the system's leave once for the whole process, and sets a
 * thread's tiles in each call; without leave it does without (ops_cpu_kind tells). The oneDNN 2.x
 * primitive interface is used in packed.c alone; 3.x names it differently.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Whether the processor multiplies bf16, and whether the library can at all (slowly, for tests). */
bool packed_is_native(void);
bool packed_is_possible(void);

enum { PACKED_ROWS_MAX = 128 };

struct packed;

/* For B (K,N); its blocks are undefined until loaded. Called where omp_get_max_threads() is 1. */
int packed_create(int64_t K, int64_t N, struct packed **ret, struct bl_error *err);
void packed_free(struct packed **packed); /* NULL is fine */

int64_t packed_block_count(const struct packed *packed);
/* Columns [first, first + count) are block b. */
void packed_block(const struct packed *packed, int64_t b, int64_t *ret_first, int64_t *ret_count);
/* Takes block b from b[k stride_k + n stride_n], n counted from the block's first column. */
void packed_load(struct packed *packed, int64_t b, const uint16_t *values, int64_t stride_k,
                 int64_t stride_n);

/* The rows that a product of `rows` (at most PACKED_ROWS_MAX) is filled up to. */
int64_t packed_rows(int64_t rows);
/* Bytes of 64-byte aligned scratch that packed_multiply needs. */
size_t packed_scratch(const struct packed *packed);
/* y (rows, count of block b) = x (rows, K) times block b; rows is a value of packed_rows. */
void packed_multiply(const struct packed *packed, int64_t b, float *y, const uint16_t *x,
                     int64_t rows, void *scratch);
