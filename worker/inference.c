/* worker/inference.c - see inference.h. */
#include "worker/inference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/image/image.h"
#include "common/limits.h"
#include "worker/options.h"

/* Puts `folder` in place of *path when given, and compares what it holds with what the checkpoint
 * was trained on. */
static int use_folder(char **path, const char *folder, enum hf_identity identity,
                      const char *expected_sha256, const char *option, struct bl_error *err)
{
    char hex[65];
    if (folder) {
        free(*path);
        *path = strdup(folder);
        if (!*path)
            return bl_fail(err, BL_ENOMEM, "no memory for a path");
    }
    if (hf_folder_sha256(*path, identity, hex, err) < 0) {
        bl_error_remedy(err, "give the model's folder with %s DIR", option);
        return bl_error_file(err, *path);
    }
    if (!strcmp(hex, expected_sha256))
        return 0;
    bl_fail(
        err, BL_ECONFIG,
        "expected the model the checkpoint was trained on (SHA-256 %.16s…), found another (%.16s…)",
        expected_sha256, hex);
    bl_error_remedy(err, "give the right model's folder with %s DIR", option);
    return bl_error_file(err, *path);
}

static int load_weights(struct inference *in, const struct inference_options *o,
                        struct bl_error *err)
{
    const struct captioner_params *params = captioner_params(in->captioner);
    const char *tensor = o->ema ? "ema" : "";
    for (int file = CAPTIONER_QFORMER; file <= CAPTIONER_PROJECTOR; file++) {
        char name[64], path[4096];
        BL_TRY(checkpoint_file_name(name, sizeof name, file, tensor, err));
        BL_TRY(bl_path_join(path, sizeof path, o->checkpoint, name, err));
        if (o->ema && !bl_path_is_file(path)) {
            bl_fail(err, BL_EUSAGE, "the checkpoint has no averaged weights");
            bl_error_remedy(err, "leave --ema out, or train with train.ema");
            return bl_error_file(err, o->checkpoint);
        }
        BL_TRY(captioner_params_read(params, (enum captioner_file)file, path, in->ops,
                                     params->values, err));
    }
    captioner_params_changed(in->captioner);
    return in->ops->sync(in->ops, err);
}

static int choose_precision(const char *text, const struct config *config, enum ops_precision *ret,
                            struct bl_error *err)
{
    *ret = options_precision(config);
    if (!text)
        return 0;
    *ret = !strcmp(text, "f32") ? OPS_F32 : OPS_BF16;
    if (!strcmp(text, "f32") || !strcmp(text, "bf16"))
        return 0;
    bl_fail(err, BL_EUSAGE, "expected bf16 or f32, found \"%.50s\"", text);
    return bl_error_key(err, "--precision");
}

/* A run's folder is easily taken for a checkpoint's. */
static int expect_checkpoint(const char *folder, struct bl_error *err)
{
    static const char *const inside[] = {"checkpoints/latest", "latest"};
    char path[4096];
    for (int i = 0; i < 2; i++) {
        BL_TRY(bl_path_join(path, sizeof path, folder, inside[i], err));
        if (!bl_path_is_folder(path))
            continue;
        bl_fail(err, BL_EUSAGE, "expected a checkpoint's folder, found %s", folder);
        bl_error_remedy(err, "did you mean %s?", path);
        return bl_error_key(err, "--checkpoint");
    }
    return 0;
}

static int open_all(const struct inference_options *o, struct inference *in, struct bl_error *err)
{
    BL_TRY(expect_checkpoint(o->checkpoint, err));
    BL_TRY(checkpoint_state_read(o->checkpoint, &in->state, err));
    BL_TRY(checkpoint_verify(o->checkpoint, &in->state, err));
    BL_TRY(config_parse(in->state.config, strlen(in->state.config), "state.json: config", "/",
                        &in->config, err));
    BL_TRY(use_folder(&in->config->vision.path, o->vision, in->state.model_identity,
                      in->state.vision_sha256, "--vision", err));
    BL_TRY(use_folder(&in->config->llm.path, o->llm, in->state.model_identity, in->state.llm_sha256,
                      "--llm", err));
    BL_TRY(tokenizer_open(in->config->llm.path, &in->tokenizer, err));
    enum ops_precision precision;
    BL_TRY(choose_precision(o->precision, in->config, &precision, err));
    struct ops_device device;
    BL_TRY(ops_device_choose(o->device, &device, err));
    BL_TRY(ops_open(&device, precision, (int)o->threads, &in->ops, err));
    struct captioner_options options = options_captioner(in->config, options_bos(in->tokenizer));
    BL_TRY(captioner_open(in->ops, &options, &in->captioner, err));
    return load_weights(in, o, err);
}

int inference_open(const struct inference_options *options, struct inference *ret,
                   struct bl_error *err)
{
    *ret = (struct inference){0};
    int rc = open_all(options, ret, err);
    if (rc < 0)
        inference_release(ret);
    return rc;
}

void inference_release(struct inference *in)
{
    captioner_free(&in->captioner);
    ops_free(&in->ops);
    tokenizer_free(&in->tokenizer);
    config_free(&in->config);
    checkpoint_state_release(&in->state);
}

static int decode(const struct inference *in, const char *path, uint8_t *pixels,
                  struct bl_error *err)
{
    bl_autofree char *data = NULL;
    size_t size;
    BL_TRY(bl_file_read(path, BL_IMAGE_FILE_BYTES_MAX, &data, &size, err));
    const struct hf_preprocess *p = captioner_preprocess(in->captioner);
    struct image image = {0};
    BL_TRY(image_decode((const uint8_t *)data, size, in->config->data.max_pixels, &image, err));
    int rc = image_resize(&image, p->width, p->height, p->filter, pixels, err);
    image_release(&image);
    return rc;
}

int inference_image(const struct inference *in, const char *path, uint8_t *pixels,
                    struct bl_error *err)
{
    int rc = decode(in, path, pixels, err);
    return rc < 0 ? bl_error_file(err, path) : rc;
}
