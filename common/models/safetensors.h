/* common/models/safetensors.h - the safetensors format: a length, a JSON header, raw little-endian
 * tensors. Reading maps the files and copies nothing. A folder holds one model.safetensors, or
 * shards named by model.safetensors.index.json. Overlapping, out-of-range or misaligned tensors are
 * refused by name. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/file.h"
#include "common/limits.h"

#define SAFETENSORS_METADATA "__metadata__" /* the header's one name that is no tensor */

/* BL_OTHER: a type that nothing here uses, such as F8_E4M3; of it only the bytes are known. */
enum bl_dtype {
    BL_F32,
    BL_F16,
    BL_BF16,
    BL_F64,
    BL_I64,
    BL_I32,
    BL_I16,
    BL_I8,
    BL_U8,
    BL_BOOL,
    BL_OTHER
};
size_t bl_dtype_bytes(enum bl_dtype dtype);
const char *bl_dtype_name(enum bl_dtype dtype); /* "F32", as the format writes it */

struct tensor {
    const char *name;
    enum bl_dtype dtype;
    int rank;
    int64_t dims[BL_TENSOR_DIMS_MAX];
    const void *data; /* borrowed from the mapping */
    size_t size_bytes;
    const char *file; /* the file it is in, and its type there, for messages */
    const char *dtype_name;
};

struct safetensors;

/* One file, or a folder (single file or sharded). *ret is the caller's (safetensors_free); tensors
 * live as long. */
int safetensors_open(const char *path, struct safetensors **ret, struct bl_error *err);
/* From memory (fuzzing, tests): `data` must outlive the result. */
int safetensors_parse(const void *data, size_t size, const char *name, struct safetensors **ret,
                      struct bl_error *err);
void safetensors_free(struct safetensors **file);

/* After data was copied: takes what was read of the mappings out of this process's memory. Tensors
 * stay valid; what is read again comes back. */
void safetensors_let_go(const struct safetensors *file);

size_t safetensors_count(const struct safetensors *file);
const struct tensor *safetensors_at(const struct safetensors *file,
                                    size_t index); /* sorted by name */
const struct tensor *safetensors_find(const struct safetensors *file,
                                      const char *name); /* NULL = absent */
/* Finds and checks the shape: -BL_EFORMAT naming file, tensor, expected and found. rank up to 4;
 * dims of -1 match any. */
int safetensors_expect(const struct safetensors *file, const char *name, int rank,
                       const int64_t *dims, const struct tensor **ret, struct bl_error *err);

/* Widens f32, f16 or bf16 elements [first, first + count) to f32. Other dtypes: -BL_EFORMAT. */
int tensor_to_f32(const struct tensor *tensor, size_t first, size_t count, float *ret,
                  struct bl_error *err);

/* Whether all elements are finite; *ret_first: the first that is not. F32, F16 and BF16 only. */
bool tensor_is_finite(const struct tensor *tensor, size_t *ret_first);
/* Same shape and same values, as f32: NaN differs from itself. F32, F16 and BF16 only. */
bool tensor_equal(const struct tensor *a, const struct tensor *b);

/* Writes tensors (names unique, data filled in) into an open writer: wider elements first, else in
 * the given order, the first at a multiple of 64 bytes. metadata: pairs key, value, …, NULL; NULL
 * for none. */
int safetensors_write_to(struct bl_file_writer *writer, const struct tensor *tensors, size_t count,
                         const char *const *metadata, struct bl_error *err);
/* The same as a file of its own, whole or not at all. */
int safetensors_write(const char *path, const struct tensor *tensors, size_t count,
                      const char *const *metadata, struct bl_error *err);
