/* tests/unit/random_test.c - Philox against the published vectors; the order of an epoch is a
 * permutation. */
#include "tests/unit/unit.h"

#include "common/random.h"

/* Known answers of Philox4x32-10 from the Random123 distribution (kat_vectors). */
static void philox_gives_the_published_numbers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        bl_philox(cases[i].counter, cases[i].key, out);
        assert_memory_equal(out, cases[i].expected, sizeof out);
    }
}

static void every_epoch_is_a_bijection_of_its_samples(void **state)
{
    for (uint64_t n = 1; n < 700; n += 1 + n / 9)
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            uint8_t seen[1024] = {0};
            for (uint64_t i = 0; i < n; i++) {
                uint64_t p = bl_permute(n * 77, epoch, n, i);
                assert_true(p < n);
                assert_false(seen[p]++);
            }
        }
}

static void epochs_and_seeds_have_their_own_order(void **state)
{
    int same_epoch = 0, same_seed = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        same_epoch += bl_permute(1, 0, 1000, i) == bl_permute(1, 1, 1000, i);
        same_seed += bl_permute(1, 0, 1000, i) == bl_permute(2, 0, 1000, i);
    }
    assert_true(same_epoch < 20 && same_seed < 20);
}

UNIT_MAIN(cmocka_unit_test(philox_gives_the_published_numbers),
          cmocka_unit_test(every_epoch_is_a_bijection_of_its_samples),
          cmocka_unit_test(epochs_and_seeds_have_their_own_order))
