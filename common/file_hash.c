/* common/file_hash.c - SHA-256 of files. */
#include "common/file_hash.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/progress.h"

/* Files hashed at the same time: as many as a checkpoint usually has; more would only compete for the disk. */
#define THREADS_MAX 8

/* Adds `length` bytes from `offset` on, or those before the file's end; *ret_done says how many. */
static int add_range(struct bl_sha256 *hash, const char *path, int fd, uint64_t offset,
                     uint64_t length, uint64_t *ret_done, struct bl_error *err)
{
    bl_autofree char *piece = malloc(BL_PROGRESS_BYTES);
    if (!piece)
        return bl_fail(err, BL_ENOMEM, "no memory to hash %s", path);
    *ret_done = 0;
    for (size_t n = 1; n && *ret_done < length; *ret_done += n) {
        uint64_t left = length - *ret_done;
        size_t wanted = left < BL_PROGRESS_BYTES ? (size_t)left : BL_PROGRESS_BYTES;
        if (bl_file_read_at(fd, offset + *ret_done, piece, wanted, &n, err) < 0)
            return bl_error_file(err, path);
        bl_sha256_add(hash, piece, n);
        bl_progress_add(1);
    }
    return 0;
}

int bl_sha256_add_file(struct bl_sha256 *hash, const char *path, struct bl_error *err)
{
    bl_autofd int fd = -1;
    struct bl_stamp stamp = {0};
    uint64_t done;
    BL_TRY(bl_file_open(path, &fd, &stamp, err));
    BL_TRY(add_range(hash, path, fd, 0, stamp.size, &done, err));
    if (done == stamp.size)
        return 0;
    bl_fail(err, BL_EIO, "expected %llu bytes, found its end after %llu",
            (unsigned long long)stamp.size, (unsigned long long)done);
    return bl_error_file(err, path);
}

int bl_file_sha256_range(const char *path, uint64_t offset, uint64_t length, uint8_t ret_hash[32],
                         uint64_t *ret_size, struct bl_stamp *ret_stamp, struct bl_error *err)
{
    bl_autofd int fd = -1;
    struct bl_stamp stamp = {0};
    BL_TRY(bl_file_open(path, &fd, &stamp, err));
    bl_autosha256 hash;
    bl_sha256_begin(&hash);
    BL_TRY(add_range(&hash, path, fd, offset, length, ret_size, err));
    bl_sha256_end(&hash, ret_hash);
    *ret_stamp = bl_file_stamp_after(fd, stamp);
    return 0;
}

int bl_file_sha256(const char *path, char ret_hex[65], struct bl_error *err)
{
    bl_autosha256 hash;
    uint8_t bytes[32];
    bl_sha256_begin(&hash);
    BL_TRY(bl_sha256_add_file(&hash, path, err));
    bl_sha256_end(&hash, bytes);
    bl_hex(bytes, sizeof bytes, ret_hex);
    return 0;
}

/* What the threads share: each takes the next file until none is left. */
struct files {
    const char *const *paths;
    char (*hex)[65];
    int count;
    atomic_int next;
    pthread_mutex_t lock;
    int failed; /* the lowest index of a file that failed, `count`: none; under the lock, as its error is */
    struct bl_error error;
};

static void *hash_files(void *argument)
{
    struct files *files = argument;
    for (int i; (i = atomic_fetch_add(&files->next, 1)) < files->count;) {
        struct bl_error error;
        if (bl_file_sha256(files->paths[i], files->hex[i], &error) == 0)
            continue;
        pthread_mutex_lock(&files->lock);
        if (i < files->failed) {
            files->failed = i;
            files->error = error;
        }
        pthread_mutex_unlock(&files->lock);
    }
    return NULL;
}

int bl_files_sha256(const char *const *paths, int count, char (*ret_hex)[65], struct bl_error *err)
{
    struct files files = {.paths = paths, .hex = ret_hex, .count = count, .failed = count};
    pthread_t threads[THREADS_MAX];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int started = 0;
    pthread_mutex_init(&files.lock, NULL);
    /* This thread takes its part too, so a thread that cannot be made is only a thread less. */
    while (started + 1 < processors && started + 1 < count && started < THREADS_MAX &&
           pthread_create(&threads[started], NULL, hash_files, &files) == 0)
        started++;
    hash_files(&files);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&files.lock);
    if (files.failed == count)
        return 0;
    if (err)
        *err = files.error;
    return -files.error.code;
}
