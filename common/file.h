/* common/file.h - files as this project uses them: read whole, or mapped, or written
 * whole-or-absent. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/hash.h"

/* Reads a regular file of at most max_bytes. *ret_data is the caller's (free), NUL-terminated
 * beyond its size. */
int bl_file_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_size,
                 struct bl_error *err);

/* What tells one content of a file from the next without reading it. */
struct bl_stamp {
    uint64_t size; /* bytes */
    int64_t mtime_ns;
};
#define BL_STAMP_CHANGING                                                                          \
    INT64_MIN /* mtime_ns of what changed while it was read; equals no other stamp */
static inline bool bl_stamp_equal(const struct bl_stamp *a, const struct bl_stamp *b)
{
    return a->size == b->size && a->mtime_ns == b->mtime_ns && a->mtime_ns != BL_STAMP_CHANGING;
}
/* Of a regular file. */
int bl_file_stamp(const char *path, struct bl_stamp *ret, struct bl_error *err);

/* Opens a regular file for reading; the descriptor is the caller's. */
int bl_file_open(const char *path, int *ret_fd, struct bl_stamp *ret_stamp, struct bl_error *err);
/* Reads up to `size` bytes; fewer where the file ends: it may shrink while it is read. */
int bl_file_read_at(int fd, uint64_t offset, char *data, size_t size, size_t *ret_done,
                    struct bl_error *err);
/* What the file is after it was read: `before`, or BL_STAMP_CHANGING as its time. */
struct bl_stamp bl_file_stamp_after(int fd, struct bl_stamp before);

/* Reads `length` bytes of a regular file from `offset` on, or as many as there are; length UINT64_MAX: to its end. More than
 * max_bytes: -BL_ELIMIT before any is read. *ret_data is the caller's, as in bl_file_read; *ret_stamp (may be NULL) is the
 * file's. */
int bl_file_read_range(const char *path, uint64_t offset, uint64_t length, size_t max_bytes,
                       char **ret_data, size_t *ret_size, struct bl_stamp *ret_stamp,
                       struct bl_error *err);

/* Refuses what stands in place of a large file until Git LFS has fetched it. */
int bl_refuse_lfs_pointer(const void *data, size_t size, struct bl_error *err);

/* A read-only mapping. data is NULL for an empty file. */
struct bl_map {
    const uint8_t *data;
    size_t size;
};
int bl_map_open(const char *path, struct bl_map *ret_map, struct bl_error *err);
void bl_map_close(struct bl_map *map);
/* Takes what was read of it out of this process's memory; what is read again comes back. */
void bl_map_let_go(const struct bl_map *map);
#define bl_automap __attribute__((cleanup(bl_map_close)))

/* A file that is complete or absent (invariant 6): bytes go to PATH.tmp.PID; commit fsyncs, renames it
 * to PATH and fsyncs the folder. Without a commit, close removes the temporary file. Begin with
 * {.fd = -1}; commit closes too, and closing twice is fine. */
struct bl_file_writer {
    int fd;
    char *path, *temporary;
    struct bl_sha256 hash; /* of what is written, after bl_file_writer_hash: the caller ends it */
};
int bl_file_writer_open(struct bl_file_writer *writer, const char *path, struct bl_error *err);
/* Before the first write: the bytes are hashed on their way. */
void bl_file_writer_hash(struct bl_file_writer *writer);
int bl_file_writer_write(struct bl_file_writer *writer, const void *data, size_t size,
                         struct bl_error *err);
int bl_file_writer_commit(struct bl_file_writer *writer, struct bl_error *err);
/* The same for a file that goes with its process: it is in its place, and need never reach the disk. */
int bl_file_writer_place(struct bl_file_writer *writer, struct bl_error *err);
void bl_file_writer_close(struct bl_file_writer *writer);
#define bl_autowriter __attribute__((cleanup(bl_file_writer_close)))

/* fsync, a piece after the other: on a slow disk gigabytes take minutes, and each piece is progress. -1: errno says why. */
int bl_file_sync(int fd);

/* Open, write, commit in one. */
int bl_file_write(const char *path, const void *data, size_t size, struct bl_error *err);

/* fsync of a folder, so that a rename inside it survives a crash. */
int bl_folder_sync(const char *path, struct bl_error *err);
/* mkdir -p. An existing folder is fine. */
int bl_folder_make(const char *path, struct bl_error *err);
/* Removes a folder and the files and folders in it; symbolic links are not followed. Absent is
 * fine. */
int bl_folder_remove(const char *path, struct bl_error *err);
bool bl_path_is_folder(const char *path);
bool bl_path_is_file(const char *path);
/* The folder that PATH is in, as text; the caller's (free). NULL: no memory. */
char *bl_path_parent(const char *path);
/* "folder/name" into ret (size bytes); -BL_ELIMIT when it does not fit. */
int bl_path_join(char *ret, size_t size, const char *folder, const char *name,
                 struct bl_error *err);

/* What was printed on standard output is written, or why not: for the end of a command whose output is its result. */
int bl_output_finish(struct bl_error *err);

/* 32 raw bytes -> 64 digits and a NUL. */
void bl_hex(const uint8_t *bytes, size_t count, char *ret_hex);
