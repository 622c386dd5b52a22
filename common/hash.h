/* common/hash.h - SHA-256 by OpenSSL, which uses the processor's SHA instructions. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct bl_sha256 {
    struct evp_md_ctx_st *context; /* NULL: not begun, or released */
};

/* Running out of the few hundred bytes it needs aborts. bl_sha256_end releases; without it, bl_sha256_release does. */
void bl_sha256_begin(struct bl_sha256 *hash);
void bl_sha256_add(struct bl_sha256 *hash, const void *data, size_t size);
void bl_sha256_end(struct bl_sha256 *hash, uint8_t ret[32]);
void bl_sha256_release(struct bl_sha256 *hash);
#define bl_autosha256 __attribute__((cleanup(bl_sha256_release))) struct bl_sha256

/* All at once. */
void bl_sha256(const void *data, size_t size, uint8_t ret[32]);
