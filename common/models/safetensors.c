/* common/models/safetensors.c - reading by mapping, checked whole before anything is handed out.
 *
 * A file: uint64 little-endian length of the header, the header (a JSON object: name -> dtype,
 * shape, [begin, end) within the data; "__metadata__" -> strings), the data. As the reference
 * library has it, the tensors cover the data without gap or overlap. */
#include "common/models/safetensors.h"

#include <endian.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"
#include "common/size.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [BL_F32] = {"F32", 4},
    [BL_F16] = {"F16", 2},
    [BL_BF16] = {"BF16", 2},
    [BL_F64] = {"F64", 8},
    [BL_I64] = {"I64", 8},
    [BL_I32] = {"I32", 4},
    [BL_I16] = {"I16", 2},
    [BL_I8] = {"I8", 1},
    [BL_U8] = {"U8", 1},
    [BL_BOOL] = {"BOOL", 1},
    [BL_OTHER] = {"another type", 1},
};

size_t bl_dtype_bytes(enum bl_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *bl_dtype_name(enum bl_dtype dtype)
{
    return dtypes[dtype].name;
}

/* One mapped file. Its tensors borrow path, header (their names) and map. */
struct shard {
    char *path;
    struct bl_map map;
    json_t *header;
};

struct safetensors {
    char *path; /* as it was asked for */
    struct shard *shards;
    size_t shard_count;
    struct tensor *tensors; /* sorted by name */
    size_t count;
};

void safetensors_free(struct safetensors **file)
{
    struct safetensors *f = *file;
    if (!f)
        return;
    for (size_t i = 0; i < f->shard_count; i++) {
        bl_json_free(&f->shards[i].header);
        bl_map_close(&f->shards[i].map);
        free(f->shards[i].path);
    }
    free(f->shards);
    free(f->tensors);
    free(f->path);
    free(f);
    *file = NULL;
}

void safetensors_let_go(const struct safetensors *file)
{
    for (size_t i = 0; i < file->shard_count; i++)
        bl_map_let_go(&file->shards[i].map);
}

/* --- The header. --- */

/* A tensor's failure carries its name as key. */
static int name_tensor(int rc, const char *name, struct bl_error *err)
{
    if (rc < 0 && err)
        snprintf(err->key, sizeof err->key, "tensor \"%.100s\"", name);
    return rc;
}

static int parse_dtype(const json_t *json, struct tensor *tensor, struct bl_error *err)
{
    const char *name = json_string_value(json);
    if (!name)
        return bl_json_fail(json, "a dtype such as F32", err);
    tensor->dtype_name = name;
    tensor->dtype = BL_OTHER;
    for (size_t i = 0; i < BL_OTHER; i++)
        if (!strcmp(name, dtypes[i].name))
            tensor->dtype = (enum bl_dtype)i;
    return 0;
}

/* Shape, and the bytes it takes. */
static int parse_shape(const json_t *json, struct tensor *tensor, struct bl_error *err)
{
    if (!json_is_array(json) || json_array_size(json) > BL_TENSOR_DIMS_MAX)
        return bl_json_fail(json, "a shape of at most 8 sizes", err);
    tensor->rank = (int)json_array_size(json);
    tensor->size_bytes = bl_dtype_bytes(tensor->dtype);
    for (int i = 0; i < tensor->rank; i++) {
        const json_t *dim = json_array_get(json, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return bl_json_fail(dim, "a size of at least 0 in the shape", err);
        tensor->dims[i] = json_integer_value(dim);
        if (!bl_mul(tensor->size_bytes, (size_t)tensor->dims[i], &tensor->size_bytes))
            return bl_fail(err, BL_EFORMAT, "the shape's sizes multiply to more than 64 bits");
    }
    return 0;
}

/* data_offsets, held against the shape (where an element's size is known) and the file's size. */
static int parse_offsets(const json_t *json, const uint8_t *data, size_t data_size,
                         struct tensor *tensor, struct bl_error *err)
{
    const json_t *begin_json = json_array_get(json, 0), *end_json = json_array_get(json, 1);
    if (json_array_size(json) != 2 || !json_is_integer(begin_json) || !json_is_integer(end_json) ||
        json_integer_value(begin_json) < 0 ||
        json_integer_value(end_json) < json_integer_value(begin_json))
        return bl_fail(err, BL_EFORMAT, "expected data_offsets [begin, end] with begin <= end");
    size_t begin = (size_t)json_integer_value(begin_json);
    size_t end = (size_t)json_integer_value(end_json);
    if (tensor->dtype == BL_OTHER)
        tensor->size_bytes = end - begin;
    if (end - begin != tensor->size_bytes)
        return bl_fail(err, BL_EFORMAT, "expected %zu bytes for its shape, found %zu",
                       tensor->size_bytes, end - begin);
    if (end > data_size) {
        bl_fail(err, BL_EFORMAT, "expected data up to offset %zu, found the file's end at %zu", end,
                data_size);
        bl_error_remedy(err, "the file is truncated: download it again");
        return -BL_EFORMAT;
    }
    tensor->data = data + begin;
    if ((uintptr_t)tensor->data % bl_dtype_bytes(tensor->dtype)) {
        bl_fail(err, BL_EFORMAT, "expected data aligned to %zu bytes, found offset %zu",
                bl_dtype_bytes(tensor->dtype), begin);
        bl_error_remedy(err, "save it again with a current safetensors library");
        return -BL_EFORMAT;
    }
    return 0;
}

static int parse_tensor(const char *name, const json_t *json, const uint8_t *data, size_t data_size,
                        struct tensor *ret, struct bl_error *err)
{
    if (!json_is_object(json))
        return bl_json_fail(json, "an object of dtype, shape and data_offsets", err);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, key, value)
    {
        if (strcmp(key, "dtype") && strcmp(key, "shape") && strcmp(key, "data_offsets"))
            return bl_fail(err, BL_EFORMAT, "unknown key \"%.80s\"", key);
    }
    struct tensor tensor = {.name = name};
    BL_TRY(parse_dtype(json_object_get(json, "dtype"), &tensor, err));
    BL_TRY(parse_shape(json_object_get(json, "shape"), &tensor, err));
    BL_TRY(parse_offsets(json_object_get(json, "data_offsets"), data, data_size, &tensor, err));
    *ret = tensor;
    return 0;
}

static int parse_metadata(const json_t *json, struct bl_error *err)
{
    if (json_is_null(json))
        return 0;
    if (!json_is_object(json))
        return bl_json_fail(json, "an object of strings", err);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, key, value)
    {
        if (!json_is_string(value))
            return bl_json_within(bl_json_fail(value, "a string", err), key, err);
    }
    return 0;
}

static int compare_place(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    const uint8_t *x_end = (const uint8_t *)x->data + x->size_bytes;
    const uint8_t *y_end = (const uint8_t *)y->data + y->size_bytes;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return (x_end > y_end) - (x_end < y_end);
}

static int compare_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* The tensors cover the data exactly. Sorts them by place. */
static int check_coverage(struct tensor *tensors, size_t count, const uint8_t *data,
                          size_t data_size, struct bl_error *err)
{
    qsort(tensors, count, sizeof *tensors, compare_place);
    const uint8_t *covered = data;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *start = tensors[i].data;
        if (start < covered)
            return name_tensor(bl_fail(err, BL_EFORMAT,
                                       "its data overlaps that of tensor \"%.100s\"",
                                       tensors[i - 1].name),
                               tensors[i].name, err);
        if (start > covered)
            return name_tensor(bl_fail(err, BL_EFORMAT, "%zu unused bytes before its data",
                                       (size_t)(start - covered)),
                               tensors[i].name, err);
        covered = start + tensors[i].size_bytes;
    }
    if (covered != data + data_size)
        return bl_fail(err, BL_EFORMAT, "%zu unused bytes after the last tensor's data",
                       (size_t)(data + data_size - covered));
    return 0;
}

/* Header length and JSON of one file. */
static int parse_header(const uint8_t *bytes, size_t size, json_t **ret, size_t *ret_data_offset,
                        struct bl_error *err)
{
    uint64_t length;
    if (size < sizeof length)
        return bl_fail(err, BL_EFORMAT, "expected a safetensors file, found %zu bytes", size);
    BL_TRY(bl_refuse_lfs_pointer(bytes, size, err));
    memcpy(&length, bytes, sizeof length);
    length = le64toh(length);
    if (length > BL_SAFETENSORS_HEADER_MAX)
        return bl_fail(err, BL_EFORMAT,
                       "expected a safetensors file with a header of at most %d bytes, found %llu",
                       BL_SAFETENSORS_HEADER_MAX, (unsigned long long)length);
    if (length > size - sizeof length)
        return bl_fail(err, BL_EFORMAT,
                       "expected a header of %llu bytes, found the file's end after %zu",
                       (unsigned long long)length, size - sizeof length);
    bl_autojson json_t *header = NULL;
    int rc = bl_json_parse((const char *)bytes + sizeof length, (size_t)length, &header, err);
    if (rc >= 0 && !json_is_object(header))
        rc = bl_json_fail(header, "an object", err);
    if (rc < 0) {
        bl_error_key(err, "header");
        return rc;
    }
    *ret = bl_take(&header);
    *ret_data_offset = sizeof length + (size_t)length;
    return 0;
}

/* Appends the tensors of one file's bytes. */
static int add_tensors(struct safetensors *file, struct shard *shard, const uint8_t *bytes,
                       size_t size, struct bl_error *err)
{
    size_t data_offset = 0;
    BL_TRY(parse_header(bytes, size, &shard->header, &data_offset, err));
    size_t most = file->count + json_object_size(shard->header);
    struct tensor *grown = realloc(file->tensors, (most + 1) * sizeof *grown);
    if (!grown)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu tensors", most);
    file->tensors = grown;
    struct tensor *added = grown + file->count;
    size_t count = 0;
    const char *name;
    json_t *value;
    json_object_foreach(shard->header, name, value)
    {
        if (!strcmp(name, SAFETENSORS_METADATA)) {
            BL_TRY(bl_json_within(parse_metadata(value, err), SAFETENSORS_METADATA, err));
            continue;
        }
        BL_TRY(name_tensor(
            parse_tensor(name, value, bytes + data_offset, size - data_offset, &added[count], err),
            name, err));
        added[count++].file = shard->path;
    }
    BL_TRY(check_coverage(added, count, bytes + data_offset, size - data_offset, err));
    file->count += count;
    return 0;
}

/* Sorts by name; two shards must not hold the same tensor. */
static int sort_names(struct safetensors *file, struct bl_error *err)
{
    if (file->count)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_name);
    for (size_t i = 1; i < file->count; i++)
        if (!compare_name(&file->tensors[i - 1], &file->tensors[i]))
            return name_tensor(bl_fail(err, BL_EFORMAT, "is in two files, %.200s and %.200s",
                                       file->tensors[i - 1].file, file->tensors[i].file),
                               file->tensors[i].name, err);
    return 0;
}

/* --- Opening. --- */

static int new_file(const char *path, size_t shard_count, struct safetensors **ret,
                    struct bl_error *err)
{
    bl_auto(safetensors) struct safetensors *file = calloc(1, sizeof *file);
    if (file) {
        file->path = strdup(path);
        file->shards = calloc(shard_count ? shard_count : 1, sizeof *file->shards);
    }
    if (!file || !file->path || !file->shards)
        return bl_fail(err, BL_ENOMEM, "no memory to open %.200s", path);
    *ret = bl_take(&file);
    return 0;
}

int safetensors_parse(const void *data, size_t size, const char *name, struct safetensors **ret,
                      struct bl_error *err)
{
    bl_auto(safetensors) struct safetensors *file = NULL;
    BL_TRY(new_file(name, 1, &file, err));
    struct shard *shard = &file->shards[file->shard_count++];
    if (!(shard->path = strdup(name)))
        return bl_fail(err, BL_ENOMEM, "no memory to open %.200s", name);
    int rc = add_tensors(file, shard, data, size, err);
    if (rc >= 0)
        rc = sort_names(file, err);
    if (rc < 0) {
        bl_error_file(err, name);
        return rc;
    }
    *ret = bl_take(&file);
    return 0;
}

static int open_shard(struct safetensors *file, const char *path, struct bl_error *err)
{
    struct shard *shard = &file->shards[file->shard_count++];
    if (!(shard->path = strdup(path)))
        return bl_fail(err, BL_ENOMEM, "no memory to open %.200s", path);
    BL_TRY(bl_map_open(path, &shard->map, err));
    int rc = add_tensors(file, shard, shard->map.data, shard->map.size, err);
    if (rc < 0)
        bl_error_file(err, path);
    return rc;
}

static int open_single(const char *path, struct safetensors **ret, struct bl_error *err)
{
    bl_auto(safetensors) struct safetensors *file = NULL;
    BL_TRY(new_file(path, 1, &file, err));
    BL_TRY(open_shard(file, path, err));
    BL_TRY(sort_names(file, err));
    *ret = bl_take(&file);
    return 0;
}

/* A tensor of the index must be in the shard that the index names. */
static int check_index_entry(const struct safetensors *file, const char *folder, const char *name,
                             const char *shard, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, folder, shard, err));
    const struct tensor *tensor = safetensors_find(file, name);
    if (!tensor || strcmp(tensor->file, path))
        return name_tensor(
            bl_fail(err, BL_EFORMAT, "expected in %.200s, which does not have it", shard), name,
            err);
    return 0;
}

/* weight_map: tensor name -> file name beside the index. */
static int open_weight_map(const char *folder, const json_t *weight_map, struct safetensors **ret,
                           struct bl_error *err)
{
    bl_autojson json_t *opened = json_object();
    bl_auto(safetensors) struct safetensors *file = NULL;
    BL_TRY(new_file(folder, json_object_size(weight_map), &file, err));
    json_t *map = (json_t *)(uintptr_t)weight_map, *value;
    const char *name;
    json_object_foreach(map, name, value)
    {
        const char *shard = json_string_value(value);
        if (!shard || !*shard || strchr(shard, '/'))
            return name_tensor(bl_json_fail(value, "the name of a file beside the index", err),
                               name, err);
        if (json_object_get(opened, shard))
            continue;
        char path[4096];
        BL_TRY(bl_path_join(path, sizeof path, folder, shard, err));
        BL_TRY(open_shard(file, path, err));
        if (json_object_set_new(opened, shard, json_true()) < 0)
            return bl_fail(err, BL_ENOMEM, "no memory to open %.200s", path);
    }
    BL_TRY(sort_names(file, err));
    json_object_foreach(map, name, value)
    {
        BL_TRY(check_index_entry(file, folder, name, json_string_value(value), err));
    }
    *ret = bl_take(&file);
    return 0;
}

static int open_index(const char *folder, const char *path, struct safetensors **ret,
                      struct bl_error *err)
{
    bl_autojson json_t *index = NULL;
    BL_TRY(bl_json_open(path, BL_SAFETENSORS_HEADER_MAX, &index, err));
    const json_t *weight_map = json_object_get(index, "weight_map");
    int rc;
    if (json_is_object(weight_map))
        rc = open_weight_map(folder, weight_map, ret, err);
    else
        rc = bl_json_within(bl_json_fail(weight_map, "an object", err), "weight_map", err);
    if (rc < 0)
        bl_error_file(err, path);
    return rc;
}

int safetensors_open(const char *path, struct safetensors **ret, struct bl_error *err)
{
    if (!bl_path_is_folder(path))
        return open_single(path, ret, err);
    char inner[4096];
    BL_TRY(bl_path_join(inner, sizeof inner, path, "model.safetensors", err));
    if (bl_path_is_file(inner))
        return open_single(inner, ret, err);
    BL_TRY(bl_path_join(inner, sizeof inner, path, "model.safetensors.index.json", err));
    if (bl_path_is_file(inner))
        return open_index(path, inner, ret, err);
    bl_fail(err, BL_EIO,
            "expected model.safetensors or model.safetensors.index.json in the folder");
    bl_error_file(err, path);
    return -BL_EIO;
}

/* --- Looking. --- */

size_t safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const struct tensor *safetensors_at(const struct safetensors *file, size_t index)
{
    BL_ASSERT_CMP(index, <, file->count);
    return &file->tensors[index];
}

const struct tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    if (!file->count)
        return NULL;
    const struct tensor key = {.name = name};
    return bsearch(&key, file->tensors, file->count, sizeof key, compare_name);
}

/* "[768, 3, 16, 16]"; -1 is written as "any". */
static const char *shape_text(int rank, const int64_t *dims, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++) {
        const char *comma = i ? ", " : "";
        used += (size_t)(dims[i] < 0 ? snprintf(text + used, size - used, "%sany", comma)
                                     : snprintf(text + used, size - used, "%s%lld", comma,
                                                (long long)dims[i]));
    }
    if (used < size)
        snprintf(text + used, size - used, "]");
    return text;
}

int safetensors_expect(const struct safetensors *file, const char *name, int rank,
                       const int64_t *dims, const struct tensor **ret, struct bl_error *err)
{
    const struct tensor *tensor = safetensors_find(file, name);
    char expected[200], found[200];
    shape_text(rank, dims, expected, sizeof expected);
    if (!tensor) {
        bl_fail(err, BL_EFORMAT, "expected shape %s, found no such tensor", expected);
        name_tensor(-BL_EFORMAT, name, err);
        bl_error_file(err, file->path);
        return -BL_EFORMAT;
    }
    bool same = tensor->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = dims[i] < 0 || dims[i] == tensor->dims[i];
    if (!same) {
        shape_text(tensor->rank, tensor->dims, found, sizeof found);
        bl_fail(err, BL_EFORMAT, "expected shape %s, found %s", expected, found);
        name_tensor(-BL_EFORMAT, name, err);
        bl_error_file(err, tensor->file);
        return -BL_EFORMAT;
    }
    *ret = tensor;
    return 0;
}

/* --- Widening. --- */

static float bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE half to single, exact: the exponent is rebased by 112; subnormal halves by subtracting the
 * hidden bit that the rebasing gave them. */
static float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = (uint32_t)(half & 0x7FFF) << 13;
    uint32_t rebased = magnitude + (112u << 23);
    if (magnitude >= 0x7C00u << 13)
        rebased += 112u << 23; /* infinity, NaN */
    float value = bits_to_f32(rebased);
    if (magnitude < 0x0400u << 13)
        value = bits_to_f32(rebased + (1u << 23)) - bits_to_f32(113u << 23);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits_to_f32(bits | sign);
}

int tensor_to_f32(const struct tensor *tensor, size_t first, size_t count, float *ret,
                  struct bl_error *err)
{
    size_t elements = tensor->size_bytes / bl_dtype_bytes(tensor->dtype);
    BL_ASSERT_CMP(first, <=, elements);
    BL_ASSERT_CMP(count, <=, elements - first);
    const uint16_t *narrow = (const uint16_t *)tensor->data + first;
    switch (tensor->dtype) {
    case BL_F32:
        if (count)
            memcpy(ret, (const float *)tensor->data + first, count * sizeof *ret);
        return 0;
    case BL_BF16:
        for (size_t i = 0; i < count; i++)
            ret[i] = bits_to_f32((uint32_t)narrow[i] << 16);
        return 0;
    case BL_F16:
        for (size_t i = 0; i < count; i++)
            ret[i] = f16_to_f32(narrow[i]);
        return 0;
    default:
        bl_fail(err, BL_EFORMAT, "expected dtype F32, F16 or BF16, found %s", tensor->dtype_name);
        name_tensor(-BL_EFORMAT, tensor->name, err);
        bl_error_file(err, tensor->file);
        return -BL_EFORMAT;
    }
}

bool tensor_is_finite(const struct tensor *tensor, size_t *ret_first)
{
    size_t count = tensor->size_bytes / bl_dtype_bytes(tensor->dtype);
    const uint32_t *wide = tensor->data;
    const uint16_t *narrow = tensor->data;
    const uint16_t exponent = tensor->dtype == BL_F16 ? 0x7C00 : 0x7F80;
    for (size_t i = 0; i < count; i++)
        if (tensor->dtype == BL_F32 ? (wide[i] & 0x7F800000) == 0x7F800000
                                    : (narrow[i] & exponent) == exponent) {
            *ret_first = i;
            return false;
        }
    return true;
}

/* Elements that are widened at a time. */
enum { COMPARED = 4096 };

bool tensor_equal(const struct tensor *a, const struct tensor *b)
{
    float x[COMPARED], y[COMPARED];
    if (a->rank != b->rank || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims))
        return false;
    size_t count = a->size_bytes / bl_dtype_bytes(a->dtype);
    for (size_t first = 0; first < count; first += COMPARED) {
        size_t n = count - first < COMPARED ? count - first : COMPARED;
        if (tensor_to_f32(a, first, n, x, NULL) < 0 || tensor_to_f32(b, first, n, y, NULL) < 0)
            return false;
        for (size_t i = 0; i < n; i++)
            if (x[i] != y[i])
                return false;
    }
    return true;
}
