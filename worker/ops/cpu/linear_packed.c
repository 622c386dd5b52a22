/* worker/ops/cpu/linear_packed.c - linear layers in bf16: x is rounded row by row, W is packed (packed.h).
 *
 * Rate       400 to 970 GFLOP/s on AMX, least where few inner elements meet many rows, so that y's way to memory counts.
 */
#include "worker/ops/cpu/linear.h"

#include <omp.h>

#include "worker/ops/cpu/packed.h"
#include "worker/ops/cpu/tiles.h"

/* B's format and blocks; where only its transpose is kept, B is made from those. */
struct source {
    const struct packed *packed, *from; /* from: NULL, or the transpose's format */
    const char *data;
};

/* Blocks of B made from its transpose at a time: enough for all threads, and few enough for the cache
 * where that leaves a choice. */
enum { MADE_BYTES = 8 << 20 };

static int64_t blocks_at_once(const struct cpu *cpu, const struct source *b, int64_t tiles)
{
    const int64_t blocks = packed_block_count(b->packed);
    if (!b->from)
        return blocks;
    const int64_t fitting = MADE_BYTES / (int64_t)packed_block_bytes(b->packed);
    return bl_min(blocks, bl_max(fitting, bl_ceil_div(cpu->threads, tiles)));
}

/* Blocks [first, first + count) of B into `made`. */
static void make_blocks(const struct source *source, char *made, int64_t first, int64_t count,
                        int threads)
{
    const size_t to_bytes = packed_block_bytes(source->packed),
                 from_bytes = packed_block_bytes(source->from);
    const int64_t from_blocks = packed_block_count(source->from);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < count * from_blocks; i++) {
        const int64_t b = i / from_blocks, from_b = i % from_blocks;
        packed_transpose(source->packed, first + b, made + (size_t)b * to_bytes, source->from,
                         from_b, source->data + (size_t)from_b * from_bytes);
    }
}

void CPU_VARIANT(multiply_packed)(struct cpu *cpu, const struct linear_product *p)
{
    if (!CPU_VARIANT(matrix_packed)(cpu, p->w, p->transposed))
        return;
    const struct matrix_packing *packing = p->w->packing;
    const struct source source = {.packed = p->transposed ? packing->backward : packing->forward,
                                  .from = p->transposed ? packing->forward : NULL,
                                  .data = packing->data};
    const int64_t tiles = bl_ceil_div(p->R, PACKED_ROWS_MAX), rows = tiles * PACKED_ROWS_MAX;
    const int64_t blocks = packed_block_count(source.packed),
                  at_once = blocks_at_once(cpu, &source, tiles);
    const size_t block_bytes = packed_block_bytes(source.packed);
    int64_t first, widest;
    packed_block(source.packed, 0, &first, &widest);
    const size_t x_bytes = whole_lines((size_t)(rows * p->K) * sizeof(uint16_t));
    const size_t made_bytes = source.from ? block_bytes * (size_t)at_once : 0;
    const size_t tile_bytes = (size_t)(PACKED_ROWS_MAX * widest) * sizeof(float);
    const size_t thread_bytes = tile_bytes + whole_lines(packed_scratch(source.packed));
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
        if (source.from)
            make_blocks(&source, made, b0, some, threads);
        const char *data = source.from ? made : source.data;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int64_t i = 0; i < tiles * some; i++) {
            char *mine = threads_scratch + (size_t)omp_get_thread_num() * thread_bytes;
            int64_t r0 = i % tiles * PACKED_ROWS_MAX, b = i / tiles, n0, columns;
            const int64_t count = bl_min(PACKED_ROWS_MAX, p->R - r0);
            packed_block(source.packed, b0 + b, &n0, &columns);
            packed_multiply(source.packed, b0 + b, data + (size_t)b * block_bytes, (float *)mine,
                            x + r0 * p->K, packed_rows(count), mine + tile_bytes);
            finish_rows(p, (const float *)mine, columns, r0, count, n0, columns);
        }
    }
}
