/* worker/ops/cpu/packed.h - bf16 products with matrices laid out once in the library's own format:
 * y (M,N) f32 = x (M,K) bf16 times B (K,N) bf16, sums in f32.
 *
 * B is cut into blocks of columns. A product is of one block with M rows, M from a short list (rows
 * are filled up to it), so all primitives exist from the start and none is looked up while
 * computing. Each is single-threaded and takes its scratch from the caller: threads may run blocks
 * side by side. A struct packed describes the format; the blocks lie in the caller's memory, block b
 * at b * packed_block_bytes, 64-byte aligned. So a matrix is kept in one form alone: where its
 * transpose is multiplied, blocks of that are made from it on the way (packed_transpose).
 *
 * For AMX the library asks the system's leave once for the whole process, and sets a thread's tiles in
 * each call; without leave it does without (ops_cpu_kind tells). The oneDNN 2.x primitive interface is
 * used in packed.c alone; 3.x names it differently.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Whether the library can multiply bf16 at all (slowly where the processor cannot, for tests). */
bool packed_is_possible(void);

enum { PACKED_ROWS_MAX = 128 };

struct packed;

/* For B (K,N). Called where omp_get_max_threads() is 1. */
int packed_create(int64_t K, int64_t N, struct packed **ret, struct bl_error *err);
void packed_free(struct packed **packed); /* NULL is fine */

int64_t packed_block_count(const struct packed *packed);
size_t packed_block_bytes(const struct packed *packed);
/* Columns [first, first + count) are block b. */
void packed_block(const struct packed *packed, int64_t b, int64_t *ret_first, int64_t *ret_count);

/* Fills block b from values[k stride_k + n stride_n], n counted from the block's first column. */
void packed_load(const struct packed *packed, int64_t b, void *block, const uint16_t *values,
                 int64_t stride_k, int64_t stride_n);
/* Fills what block b of `packed` (K,N) takes from block `from_b` of its transpose `from` (N,K), which
 * is complete at from_block: all blocks of `from` make it whole. Bit for bit what packed_load gives. */
void packed_transpose(const struct packed *packed, int64_t b, void *block,
                      const struct packed *from, int64_t from_b, const void *from_block);

/* The rows that a product of `rows` (at most PACKED_ROWS_MAX) is filled up to. */
int64_t packed_rows(int64_t rows);
/* Bytes of 64-byte aligned scratch that packed_multiply needs. */
size_t packed_scratch(const struct packed *packed);
/* y (rows, count of block b) = x (rows, K) times block b; rows is a value of packed_rows. */
void packed_multiply(const struct packed *packed, int64_t b, const void *block, float *y,
                     const uint16_t *x, int64_t rows, void *scratch);
