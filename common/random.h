/* common/random.h - randomness as a function of what is drawn for, never of who draws it
 * (docs/design.md, invariants 1, 2). */
#pragma once

#include <stdint.h>

/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
 * section 3.3): ret[0..3] = 128 random bits of the 128-bit counter under the 64-bit key. */
void bl_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4]);

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
