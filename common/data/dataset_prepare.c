/* common/data/dataset_prepare.c - a run's dataset.index: the one that is there, or a new one. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset_format.h"
#include "common/file.h"

#define auto_inputs __attribute__((cleanup(dataset_inputs_free))) struct dataset_inputs

static int index_path(const struct config *config, char *ret, size_t size, struct bl_error *err)
{
    return bl_path_join(ret, size, config->run_dir, "dataset.index", err);
}

/* The index at path if it is whole and made from these inputs, else NULL. */
static struct dataset *reuse(const char *path, const struct dataset_inputs *inputs)
{
    bl_auto(dataset) struct dataset *d = NULL;
    if (!bl_path_is_file(path) || dataset_open(path, &d, NULL) < 0 ||
        memcmp(d->header->made_from, inputs->digest, 32))
        return NULL;
    return bl_take(&d);
}

/* A dataset in memory. */
static int make(const struct config *config, struct dataset_inputs *inputs,
                dataset_progress *progress, void *ctx, struct dataset **ret, struct bl_error *err)
{
    bl_auto(dataset) struct dataset *d = calloc(1, sizeof *d);
    if (!d)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    BL_TRY(dataset_build(config, inputs, progress, ctx, &d->bytes, err));
    BL_TRY(dataset_check(d, d->bytes.data, d->bytes.size, err));
    *ret = bl_take(&d);
    return 0;
}

int dataset_view(const struct config *config, dataset_progress *progress, void *ctx,
                 struct dataset **ret, struct bl_error *err)
{
    char path[4096];
    auto_inputs *inputs = NULL;
    BL_TRY(index_path(config, path, sizeof path, err));
    BL_TRY(dataset_inputs_open(config, progress, ctx, &inputs, err));
    *ret = reuse(path, inputs);
    return *ret ? 0 : make(config, inputs, progress, ctx, ret, err);
}

int dataset_prepare(const struct config *config, dataset_progress *progress, void *ctx,
                    struct dataset **ret, bool *ret_reused, struct bl_error *err)
{
    char path[4096];
    bl_auto(dataset) struct dataset *d = NULL;
    auto_inputs *inputs = NULL;
    BL_TRY(index_path(config, path, sizeof path, err));
    BL_TRY(dataset_inputs_open(config, progress, ctx, &inputs, err));
    d = reuse(path, inputs);
    bool reused = d != NULL;
    if (!reused)
        BL_TRY(make(config, inputs, progress, ctx, &d, err));
    BL_TRY(dataset_judge(config, d, err));
    if (!reused) {
        BL_TRY(bl_folder_make(config->run_dir, err));
        BL_TRY(bl_file_write(path, d->bytes.data, d->bytes.size, err));
    }
    if (ret_reused)
        *ret_reused = reused;
    *ret = bl_take(&d);
    return 0;
}
