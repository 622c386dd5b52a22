/* common/random.h - randomness as a function of what is drawn for, never of who draws it
 * (docs/design.md, invariants 1, 2). */
#pragma once

#include <stdint.h>

/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
 * section 3.3): ret[0..3] = 128 random bits of the 128-bit counter under the 64-bit key. */
void bl_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4]);
/* The same in line, for loops that compilers turn into vectors: a struct, because gcc keeps an array of
 * such a loop in memory, which makes it three times slower. */
struct bl_philox_block {
    uint32_t a, b, c, d;
};
static inline struct bl_philox_block bl_philox_rounds(struct bl_philox_block x, uint32_t k0,
                                                      uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * x.a, p1 = (uint64_t)0xCD9E8D57u * x.c;
        x.a = (uint32_t)(p1 >> 32) ^ x.b ^ k0;
        x.b = (uint32_t)p1;
        x.c = (uint32_t)(p0 >> 32) ^ x.d ^ k1;
        x.d = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return x;
}

/* What a number is drawn for. A purpose is never reused for another meaning. */
enum bl_random_purpose {
    BL_RANDOM_DROPOUT = 1,
    BL_RANDOM_INIT = 2,
    BL_RANDOM_CAPTION = 3, /* which of several captions a sample trains in an epoch */
    BL_RANDOM_ORDER = 4,
    BL_RANDOM_SAMPLING = 5, /* temperature sampling while captioning */
    BL_RANDOM_SPLIT = 6,
};

/* 64-bit mixing of a seed with a purpose or a name's hash into a Philox key (splitmix64's
 * finaliser). */
uint64_t bl_mix64(uint64_t a, uint64_t b);
/* FNV-1a 64 of a string: the stable number of a tensor's name. */
uint64_t bl_hash_name(const char *name);

/* The four words drawn for (seed, purpose, a, b): counter = a (64 bit), b (64 bit). */
void bl_draw(uint64_t seed, enum bl_random_purpose purpose, uint64_t a, uint64_t b,
             uint32_t ret[4]);

/* u32 -> [0, 1) with 24 bits, exact in f32. */
static inline float bl_unit_f32(uint32_t x)
{
    return (float)(x >> 8) * 0x1p-24f;
}

/* Position i of epoch e -> sample place in [0, n): a keyed bijection for every (seed, epoch), by a
 * six-round Feistel network over the smallest even-bit power of two >= n, walked along its cycle
 * until the value is below n (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002). n >=
 * 1, i < n. O(1) expected. */
uint64_t bl_permute(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t i);
