/* common/file_hash.h - SHA-256 of files. */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "common/file.h"
#include "common/hash.h"

/* Adds a regular file's content. It is read, not mapped: a file that shrinks meanwhile is an error, no SIGBUS. */
int bl_sha256_add_file(struct bl_sha256 *hash, const char *path, struct bl_error *err);
/* SHA-256 of what bl_file_read_range would read; *ret_size is how much that was. */
int bl_file_sha256_range(const char *path, uint64_t offset, uint64_t length, uint8_t ret_hash[32],
                         uint64_t *ret_size, struct bl_stamp *ret_stamp, struct bl_error *err);
/* SHA-256 of a file's content as 64 hexadecimal digits and a NUL. */
int bl_file_sha256(const char *path, char ret_hex[65], struct bl_error *err);
/* The same of `count` files, several at a time on threads of their own. The first file that fails gives the error. */
int bl_files_sha256(const char *const *paths, int count, char (*ret_hex)[65], struct bl_error *err);
