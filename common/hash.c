/* common/hash.c - SHA-256 of memory. */
#include "common/hash.h"

#include <openssl/evp.h>
#include <pthread.h>

/* Found once: finding it takes longer than hashing a URL. */
static EVP_MD *algorithm;

static void find_algorithm(void)
{
    algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
}

void bl_sha256_begin(struct bl_sha256 *hash)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_algorithm);
    hash->context = EVP_MD_CTX_new();
    BL_ASSERT(hash->context && EVP_DigestInit_ex(hash->context, algorithm, NULL) == 1);
}

void bl_sha256_add(struct bl_sha256 *hash, const void *data, size_t size)
{
    int ok = EVP_DigestUpdate(hash->context, data, size);
    BL_ASSERT(ok == 1);
}

void bl_sha256_end(struct bl_sha256 *hash, uint8_t ret[32])
{
    int ok = EVP_DigestFinal_ex(hash->context, ret, NULL);
    BL_ASSERT(ok == 1);
    bl_sha256_release(hash);
}

void bl_sha256_release(struct bl_sha256 *hash)
{
    EVP_MD_CTX_free(hash->context);
    hash->context = NULL;
}

void bl_sha256(const void *data, size_t size, uint8_t ret[32])
{
    struct bl_sha256 hash;
    bl_sha256_begin(&hash);
    bl_sha256_add(&hash, data, size);
    bl_sha256_end(&hash, ret);
}
