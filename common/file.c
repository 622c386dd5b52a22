/* common/file.c - reading, mapping and whole-or-absent writing of files. */
#include "common/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/progress.h"

#define SYNC_BYTES ((off_t)16 << 20) /* of a piece: a fraction of a second */

static struct bl_stamp stamp_of(const struct stat *st)
{
    return (struct bl_stamp){(uint64_t)st->st_size,
                             st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec};
}

static int check_regular(const char *path, const struct stat *st, struct bl_error *err)
{
    if (S_ISREG(st->st_mode))
        return 0;
    bl_fail(err, BL_EIO, "expected a regular file, found %s",
            S_ISDIR(st->st_mode) ? "a folder" : "something else");
    return bl_error_file(err, path);
}

int bl_file_open(const char *path, int *ret_fd, struct bl_stamp *ret_stamp, struct bl_error *err)
{
    bl_autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        bl_fail_errno(err, "cannot be opened");
        return bl_error_file(err, path);
    }
    struct stat st;
    if (fstat(fd, &st) < 0) {
        bl_fail_errno(err, "cannot be examined");
        return bl_error_file(err, path);
    }
    BL_TRY(check_regular(path, &st, err));
    *ret_stamp = stamp_of(&st);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

int bl_file_stamp(const char *path, struct bl_stamp *ret, struct bl_error *err)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        bl_fail_errno(err, "cannot be examined");
        return bl_error_file(err, path);
    }
    BL_TRY(check_regular(path, &st, err));
    *ret = stamp_of(&st);
    return 0;
}

int bl_file_read_at(int fd, uint64_t offset, char *data, size_t size, size_t *ret_done,
                    struct bl_error *err)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = pread(fd, data + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bl_fail_errno(err, "cannot be read");
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_done = done;
    return 0;
}

/* The file's stamp, if it still has it. */
struct bl_stamp bl_file_stamp_after(int fd, struct bl_stamp before)
{
    struct stat st;
    struct bl_stamp changing = {before.size, BL_STAMP_CHANGING};
    if (fstat(fd, &st) < 0)
        return changing;
    struct bl_stamp after = stamp_of(&st);
    return bl_stamp_equal(&before, &after) ? after : changing;
}

int bl_file_read_range(const char *path, uint64_t offset, uint64_t length, size_t max_bytes,
                       char **ret_data, size_t *ret_size, struct bl_stamp *ret_stamp,
                       struct bl_error *err)
{
    bl_autofd int fd = -1;
    struct bl_stamp stamp = {0};
    BL_TRY(bl_file_open(path, &fd, &stamp, err));
    uint64_t there = offset < stamp.size ? stamp.size - offset : 0;
    uint64_t wanted = length < there ? length : there;
    if (wanted > max_bytes) {
        bl_fail(err, BL_ELIMIT, "expected at most %zu bytes, found %llu", max_bytes,
                (unsigned long long)wanted);
        return bl_error_file(err, path);
    }
    bl_autofree char *data = malloc((size_t)wanted + 1);
    if (!data)
        return bl_fail(err, BL_ENOMEM, "no memory for %llu bytes of %s", (unsigned long long)wanted,
                       path);
    size_t done = 0;
    if (bl_file_read_at(fd, offset, data, (size_t)wanted, &done, err) < 0)
        return bl_error_file(err, path);
    data[done] = 0;
    if (ret_stamp)
        *ret_stamp = bl_file_stamp_after(fd, stamp);
    *ret_data = bl_take(&data);
    *ret_size = done;
    return 0;
}

int bl_file_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_size,
                 struct bl_error *err)
{
    return bl_file_read_range(path, 0, UINT64_MAX, max_bytes, ret_data, ret_size, NULL, err);
}

int bl_refuse_lfs_pointer(const void *data, size_t size, struct bl_error *err)
{
    static const char begin[] = "version https://git-lfs.github.com/";
    if (size < sizeof begin - 1 || memcmp(data, begin, sizeof begin - 1) != 0)
        return 0;
    bl_fail(err, BL_EFORMAT, "found a pointer of Git LFS in place of the file");
    return bl_error_remedy(err, "fetch the file itself (git lfs pull)");
}

int bl_map_open(const char *path, struct bl_map *ret_map, struct bl_error *err)
{
    bl_autofd int fd = -1;
    struct bl_stamp stamp = {0};
    BL_TRY(bl_file_open(path, &fd, &stamp, err));
    *ret_map = (struct bl_map){0};
    if (!stamp.size)
        return 0;
    size_t size = (size_t)stamp.size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        bl_fail_errno(err, "cannot be mapped");
        return bl_error_file(err, path);
    }
    *ret_map = (struct bl_map){.data = data, .size = size};
    return 0;
}

void bl_map_close(struct bl_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct bl_map){0};
}

void bl_map_let_go(const struct bl_map *map)
{
    if (map->data)
        madvise((void *)(uintptr_t)map->data, map->size, MADV_DONTNEED);
}

int bl_folder_sync(const char *path, struct bl_error *err)
{
    bl_autofd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        bl_fail_errno(err, "the folder cannot be synced to disk");
        return bl_error_file(err, path);
    }
    return 0;
}

int bl_file_writer_open(struct bl_file_writer *writer, const char *path, struct bl_error *err)
{
    *writer = (struct bl_file_writer){.fd = -1};
    if (asprintf(&writer->temporary, "%s.tmp.%d", path, (int)getpid()) < 0) {
        writer->temporary = NULL;
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    }
    writer->path = strdup(path);
    if (!writer->path) {
        bl_file_writer_close(writer);
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    }
    writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->fd < 0) {
        bl_fail_errno(err, "cannot be written");
        bl_file_writer_close(writer);
        return bl_error_file(err, path);
    }
    return 0;
}

void bl_file_writer_hash(struct bl_file_writer *writer)
{
    bl_sha256_begin(&writer->hash);
}

int bl_file_writer_write(struct bl_file_writer *writer, const void *data, size_t size,
                         struct bl_error *err)
{
    const char *p = data;
    while (size) {
        ssize_t n = write(writer->fd, p, size < BL_PROGRESS_BYTES ? size : BL_PROGRESS_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            bl_fail_errno(err, "cannot be written");
            return bl_error_file(err, writer->path);
        }
        if (writer->hash.context)
            bl_sha256_add(&writer->hash, p, (size_t)n); /* while it is in the cache */
        bl_progress_add(1);
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

/* While one piece is waited for, the disk has the next. What a file system does not do in pieces, fsync does. */
int bl_file_sync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    for (off_t at = 0; at < st.st_size; at += SYNC_BYTES) {
        sync_file_range(fd, at, 2 * SYNC_BYTES, SYNC_FILE_RANGE_WRITE);
        sync_file_range(fd, at, SYNC_BYTES, SYNC_FILE_RANGE_WAIT_BEFORE);
        bl_progress_add(1);
    }
    return fsync(fd);
}

static int fail_place(struct bl_file_writer *writer, struct bl_error *err)
{
    bl_fail_errno(err, "cannot be put in place");
    return bl_error_file(err, writer->path);
}

int bl_file_writer_place(struct bl_file_writer *writer, struct bl_error *err)
{
    if (rename(writer->temporary, writer->path) < 0)
        return fail_place(writer, err);
    close(writer->fd);
    writer->fd = -1;
    bl_file_writer_close(writer);
    return 0;
}

int bl_file_writer_commit(struct bl_file_writer *writer, struct bl_error *err)
{
    bl_autofree char *folder = bl_path_parent(writer->path);
    if (!folder)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    if (bl_file_sync(writer->fd) < 0)
        return fail_place(writer, err);
    BL_TRY(bl_file_writer_place(writer, err));
    return bl_folder_sync(folder, err);
}

void bl_file_writer_close(struct bl_file_writer *writer)
{
    if (writer->fd >= 0) {
        close(writer->fd);
        unlink(writer->temporary);
    }
    bl_sha256_release(&writer->hash);
    free(writer->path);
    free(writer->temporary);
    *writer = (struct bl_file_writer){.fd = -1};
}

int bl_file_write(const char *path, const void *data, size_t size, struct bl_error *err)
{
    bl_autowriter struct bl_file_writer writer = {.fd = -1};
    BL_TRY(bl_file_writer_open(&writer, path, err));
    BL_TRY(bl_file_writer_write(&writer, data, size, err));
    return bl_file_writer_commit(&writer, err);
}

int bl_folder_make(const char *path, struct bl_error *err)
{
    bl_autofree char *copy = strdup(path);
    if (!copy)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    for (char *p = copy + 1; *copy; p++) {
        if (*p && *p != '/')
            continue;
        char kept = *p;
        *p = 0;
        if (mkdir(copy, 0777) < 0 && !(errno == EEXIST && bl_path_is_folder(copy))) {
            bl_fail_errno(err, "the folder cannot be made");
            return bl_error_file(err, copy);
        }
        *p = kept;
        if (!kept)
            break;
    }
    return 0;
}

static void close_folder(DIR **folder)
{
    if (*folder)
        closedir(*folder);
}

/* Removes what is inside the open folder; depth bounds the recursion. */
static int empty_folder(int fd, int depth)
{
    __attribute__((cleanup(close_folder))) DIR *folder = fdopendir(fd);
    if (!folder) {
        close(fd);
        return -1;
    }
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (unlinkat(dirfd(folder), entry->d_name, 0) == 0)
            continue;
        int inner =
            openat(dirfd(folder), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner < 0)
            return -1;
        if (depth == 0) {
            close(inner);
            errno = ELOOP;
            return -1;
        }
        if (empty_folder(inner, depth - 1) < 0 ||
            unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR) < 0)
            return -1;
    }
    return 0;
}

int bl_folder_remove(const char *path, struct bl_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || empty_folder(fd, 16) < 0 || rmdir(path) < 0) {
        bl_fail_errno(err, "the folder cannot be removed");
        return bl_error_file(err, path);
    }
    return 0;
}

bool bl_path_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool bl_path_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

char *bl_path_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int bl_path_join(char *ret, size_t size, const char *folder, const char *name, struct bl_error *err)
{
    int n = snprintf(ret, size, "%s%s%s", folder,
                     *folder && folder[strlen(folder) - 1] == '/' ? "" : "/", name);
    if (n < 0 || (size_t)n >= size)
        return bl_fail(err, BL_ELIMIT, "the path %.100s/%.100s is too long", folder, name);
    return 0;
}

void bl_hex(const uint8_t *bytes, size_t count, char *ret_hex)
{
    static const char digits[] =
        "0123456789abcdef"; /* of every row's URL: printf would take a fifth of indexing */
    for (size_t i = 0; i < count; i++) {
        ret_hex[2 * i] = digits[bytes[i] >> 4];
        ret_hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret_hex[2 * count] = 0;
}

int bl_output_finish(struct bl_error *err)
{
    errno = EIO; /* of an earlier failure nobody kept the number */
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    return bl_fail_errno(err, "the output cannot be written");
}
