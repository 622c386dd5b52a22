/* common/models/safetensors_write.c - writing whole or not at all; safetensors.c has the format. */
#include "common/models/safetensors.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"

#define DATA_ALIGNMENT 64

/* Elements wider than these go first, so that every tensor is aligned to its element. */
static const size_t widths[] = {8, 4, 2, 1};
#define WIDTH_COUNT (sizeof widths / sizeof *widths)

static json_t *tensor_entry(const struct tensor *tensor, size_t begin)
{
    json_t *shape = json_array();
    for (int i = 0; i < tensor->rank; i++)
        json_array_append_new(shape, json_integer(tensor->dims[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", bl_dtype_name(tensor->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + tensor->size_bytes));
}

/* The header's JSON, padded with spaces so that the data starts at a multiple of 64. */
static int build_header(const struct tensor *tensors, size_t count, const char *const *metadata,
                        char **ret, size_t *ret_size, struct bl_error *err)
{
    bl_autojson json_t *header = json_object();
    if (metadata) {
        json_t *object = json_object();
        for (; metadata[0]; metadata += 2)
            json_object_set_new(object, metadata[0], json_string(metadata[1]));
        json_object_set_new(header, SAFETENSORS_METADATA, object);
    }
    size_t begin = 0;
    for (size_t w = 0; w < WIDTH_COUNT; w++)
        for (size_t i = 0; i < count; i++) {
            if (bl_dtype_bytes(tensors[i].dtype) != widths[w])
                continue;
            json_object_set_new(header, tensors[i].name, tensor_entry(&tensors[i], begin));
            begin += tensors[i].size_bytes;
        }
    bl_autofree char *text = json_dumps(header, JSON_COMPACT);
    if (!text || json_object_size(header) != count + (metadata ? 1 : 0))
        return bl_fail(err, BL_ENOMEM, "no memory for the header of %zu tensors", count);
    size_t length = strlen(text);
    size_t padded = (length + 8 + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT - 8;
    char *grown = realloc(text, padded);
    if (!grown)
        return bl_fail(err, BL_ENOMEM, "no memory for the header of %zu tensors", count);
    text = grown;
    memset(text + length, ' ', padded - length);
    *ret = bl_take(&text);
    *ret_size = padded;
    return 0;
}

int safetensors_write_to(struct bl_file_writer *writer, const struct tensor *tensors, size_t count,
                         const char *const *metadata, struct bl_error *err)
{
    bl_autofree char *header = NULL;
    size_t header_size = 0;
    BL_TRY(build_header(tensors, count, metadata, &header, &header_size, err));
    uint64_t length = htole64(header_size);
    BL_TRY(bl_file_writer_write(writer, &length, sizeof length, err));
    BL_TRY(bl_file_writer_write(writer, header, header_size, err));
    for (size_t w = 0; w < WIDTH_COUNT; w++)
        for (size_t i = 0; i < count; i++)
            if (bl_dtype_bytes(tensors[i].dtype) == widths[w])
                BL_TRY(bl_file_writer_write(writer, tensors[i].data, tensors[i].size_bytes, err));
    return 0;
}

int safetensors_write(const char *path, const struct tensor *tensors, size_t count,
                      const char *const *metadata, struct bl_error *err)
{
    bl_autowriter struct bl_file_writer writer = {.fd = -1};
    BL_TRY(bl_file_writer_open(&writer, path, err));
    BL_TRY(safetensors_write_to(&writer, tensors, count, metadata, err));
    return bl_file_writer_commit(&writer, err);
}
