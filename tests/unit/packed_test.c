/* tests/unit/packed_test.c - the blocks in which the CPU backend keeps matrices for bf16 products. */
#include "tests/unit/unit.h"

#include "worker/ops/cpu/packed.h"

/* All blocks of B (K,N), poisoned first; the caller frees. */
static char *poisoned_blocks(const struct packed *packed)
{
    size_t bytes = packed_block_bytes(packed) * (size_t)packed_block_count(packed);
    char *blocks = aligned_alloc(64, bytes);
    assert_non_null(blocks);
    memset(blocks, 0x7f, bytes);
    return blocks;
}

/* W (N,K) packed for backward straight from its rows, and from W^T packed for forward. */
static void a_transposed_block_is_what_loading_gives(void **state)
{
    static const int64_t sizes[][2] = {{64, 64},   {1, 1},     {33, 7},    {300, 70},
                                       {70, 300},  {256, 512}, {257, 129}, {500, 96},
                                       {1000, 40}, {96, 1000}, {31, 33},   {160, 530}};
    if (!packed_is_possible())
        skip();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t N = sizes[i][0], K = sizes[i][1];
        struct packed *forward = NULL, *backward = NULL;
        struct bl_error err;
        assert_ok(packed_create(K, N, &forward, &err), err);
        assert_ok(packed_create(N, K, &backward, &err), err);
        uint16_t *w = malloc((size_t)(N * K) * sizeof *w);
        assert_non_null(w);
        for (int64_t j = 0; j < N * K; j++)
            w[j] = (uint16_t)(j * 40503 + 1);
        char *kept = poisoned_blocks(forward), *loaded = poisoned_blocks(backward),
             *made = poisoned_blocks(backward);
        int64_t first, count;
        for (int64_t b = 0; b < packed_block_count(forward); b++) {
            packed_block(forward, b, &first, &count);
            packed_load(forward, b, kept + (size_t)b * packed_block_bytes(forward), w + first * K,
                        1, K);
        }
        const size_t bytes = packed_block_bytes(backward);
        for (int64_t b = 0; b < packed_block_count(backward); b++) {
            packed_block(backward, b, &first, &count);
            packed_load(backward, b, loaded + (size_t)b * bytes, w + first, K, 1);
            for (int64_t f = 0; f < packed_block_count(forward); f++)
                packed_transpose(backward, b, made + (size_t)b * bytes, forward, f,
                                 kept + (size_t)f * packed_block_bytes(forward));
        }
        assert_memory_equal(made, loaded, bytes * (size_t)packed_block_count(backward));
        free(w);
        free(kept);
        free(loaded);
        free(made);
        packed_free(&forward);
        packed_free(&backward);
    }
}

UNIT_MAIN(cmocka_unit_test(a_transposed_block_is_what_loading_gives))
