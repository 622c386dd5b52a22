/* tests/tools/weights.c - see weights.h. */
#include "tests/tools/weights.h"

#include <stdlib.h>

#include "common/cleanup.h"
#include "common/file.h"

static const char *const file_names[] = {
    [CAPTIONER_QFORMER] = "qformer.safetensors",
    [CAPTIONER_PROJECTOR] = "projector.safetensors",
};

int weights_save(struct ops *ops, struct captioner *c, const char *folder, struct bl_error *err)
{
    const struct captioner_params *params = captioner_params(c);
    size_t bytes = (size_t)params->count * sizeof(float);
    bl_autofree float *host = malloc(bytes);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for a copy of the weights");
    ops->copy_out(ops, host, params->values, bytes);
    BL_TRY(ops->sync(ops, err));
    for (int file = 0; file < 2; file++) {
        char path[4096];
        BL_TRY(bl_path_join(path, sizeof path, folder, file_names[file], err));
        BL_TRY(captioner_params_write(params, (enum captioner_file)file, path, host, NULL, err));
    }
    return 0;
}

int weights_load(struct ops *ops, struct captioner *c, const char *folder, struct bl_error *err)
{
    const struct captioner_params *params = captioner_params(c);
    bl_autofree float *host = calloc((size_t)params->count, sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for a copy of the weights");
    for (int file = 0; file < 2; file++) {
        char path[4096];
        BL_TRY(bl_path_join(path, sizeof path, folder, file_names[file], err));
        BL_TRY(captioner_params_read(params, (enum captioner_file)file, path, host, err));
    }
    ops->copy_in(ops, params->values, host, (size_t)params->count * sizeof *host);
    captioner_params_changed(c);
    return 0;
}
