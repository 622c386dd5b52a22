/* common/parquet/bytes.c - the file's bytes, read when they are needed: others may shorten the file meanwhile, which would end
 * a program that has it mapped. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/parquet/parquet_parts.h"

void file_bytes_release(struct file_bytes *bytes)
{
    free(bytes->owned);
    *bytes = (struct file_bytes){0};
}

int file_read(const struct parquet *file, size_t offset, size_t size, uint8_t *ret,
              struct bl_error *err)
{
    BL_ASSERT(offset <= file->size && size <= file->size - offset);
    size_t done = 0;
    if (file->memory) {
        memcpy(ret, file->memory + offset, size);
        return 0;
    }
    BL_TRY(bl_file_read_at(file->fd, offset, (char *)ret, size, &done, err));
    if (done == size)
        return 0;
    bl_fail(
        err, BL_EDATA,
        "expected %zu bytes, as when it was opened, found its end at byte %zu: it was shortened "
        "while it was read",
        file->size, offset + done);
    return bl_error_remedy(err, "replace files by renaming, and run the same command again");
}

int file_bytes_read(const struct parquet *file, size_t offset, size_t size, struct file_bytes *ret,
                    struct bl_error *err)
{
    BL_ASSERT(offset <= file->size && size <= file->size - offset);
    if (file->memory) {
        *ret = (struct file_bytes){.data = file->memory + offset};
        return 0;
    }
    bl_autofree uint8_t *data = malloc(size ? size : 1);
    if (!data)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes of a Parquet file", size);
    BL_TRY(file_read(file, offset, size, data, err));
    ret->data = ret->owned = bl_take(&data);
    return 0;
}

int parquet_read_at(const struct parquet *file, const struct parquet_place *place, void *ret,
                    struct bl_error *err)
{
    int rc = file_read(file, place->offset, place->size, ret, err);
    return rc < 0 ? bl_error_file(err, file->name) : 0;
}
