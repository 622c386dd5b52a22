/* common/random.c - Philox4x32-10 and the keyed Feistel permutation. */
#include "common/random.h"

#include "common/error.h"

void bl_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4])
{
    struct bl_philox_block x = {counter[0], counter[1], counter[2], counter[3]};
    x = bl_philox_rounds(x, key[0], key[1]);
    ret[0] = x.a;
    ret[1] = x.b;
    ret[2] = x.c;
    ret[3] = x.d;
}

uint64_t bl_mix64(uint64_t a, uint64_t b)
{
    uint64_t z = a + 0x9E3779B97F4A7C15u * (b + 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t bl_hash_name(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001B3u;
    return h;
}

void bl_draw(uint64_t seed, enum bl_random_purpose purpose, uint64_t a, uint64_t b, uint32_t ret[4])
{
    uint64_t key = bl_mix64(seed, purpose);
    bl_philox(
        (const uint32_t[4]){(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)},
        (const uint32_t[2]){(uint32_t)key, (uint32_t)(key >> 32)}, ret);
}

/* One pass through the network over [0, 4^half): swap halves, add a keyed hash of one to the other.
 */
static uint64_t feistel(uint64_t key, uint64_t epoch, int half, uint64_t x)
{
    uint64_t mask = ((uint64_t)1 << half) - 1, left = x >> half, right = x & mask;
    for (uint32_t round = 0; round < 6; round++) {
        uint32_t out[4];
        bl_philox(
            (const uint32_t[4]){(uint32_t)right, (uint32_t)epoch, (uint32_t)(epoch >> 32), round},
            (const uint32_t[2]){(uint32_t)key, (uint32_t)(key >> 32)}, out);
        uint64_t next = left ^ (out[0] & mask);
        left = right;
        right = next;
    }
    return left << half | right;
}

uint64_t bl_permute(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t i)
{
    BL_ASSERT(n >= 1 && i < n && n <= (uint64_t)1 << 62);
    int half = 1;
    while (((uint64_t)1 << (2 * half)) < n)
        half++;
    uint64_t key = bl_mix64(seed, BL_RANDOM_ORDER);
    do
        i = feistel(key, epoch, half, i);
    while (i >= n);
    return i;
}
