/* tests/tools/model_input.c - see model_input.h. */
#include "tests/tools/model_input.h"

#include <string.h>

#include "common/json.h"
#include "common/size.h"
#include "tests/tools/weights.h"
#include "worker/rehearse.h"

static int choose(const json_t *options, const char *key, const char *const *names, int *ret,
                  struct bl_error *err)
{
    const char *value = names[0];
    BL_TRY(bl_json_string(options, key, &value, err));
    for (int i = 0; names[i]; i++)
        if (strcmp(value, names[i]) == 0) {
            *ret = i;
            return 0;
        }
    bl_fail(err, BL_ECONFIG, "unknown value %s", value);
    return bl_error_key(err, "%s", key);
}

static int read_options(const json_t *json, struct captioner_options *ret, struct bl_error *err)
{
    struct captioner_options o = {.bos_id = -1};
    int64_t bos_id = -1;
    int projector = 0, routing = 0, bos = 0, cross = 0;
    BL_TRY(bl_json_string(json, "vision", &o.vision, err));
    BL_TRY(bl_json_string(json, "llm", &o.llm, err));
    BL_TRY(bl_json_int(json, "width", 0, 1 << 20, &o.width, err));
    BL_TRY(bl_json_int(json, "queries", 1, 1 << 20, &o.queries, err));
    BL_TRY(bl_json_int(json, "layers", 1, 1 << 20, &o.layers, err));
    BL_TRY(bl_json_int(json, "heads", 1, 1 << 20, &o.heads, err));
    BL_TRY(bl_json_int(json, "experts", 1, 1 << 20, &o.experts, err));
    BL_TRY(bl_json_float(json, "dropout", 0, 1, &o.dropout, err));
    BL_TRY(bl_json_bool(json, "recompute", &o.recompute, err));
    o.projector_dropout = o.dropout;
    BL_TRY(bl_json_int(json, "bos_id", -1, 1 << 30, &bos_id, err));
    BL_TRY(
        choose(json, "projector", (const char *const[]){"normal", "moe", NULL}, &projector, err));
    BL_TRY(choose(json, "routing", (const char *const[]){"pooled", "mean", "first", NULL}, &routing,
                  err));
    BL_TRY(choose(json, "bos", (const char *const[]){"first", "after_image", "none", NULL}, &bos,
                  err));
    BL_TRY(choose(json, "cross", (const char *const[]){"fewer", "plain", "folded", NULL}, &cross,
                  err));
    o.cross = (enum captioner_cross)cross;
    o.projector = (enum captioner_projector)projector;
    o.routing = (enum captioner_routing)routing;
    o.bos = (enum captioner_bos)bos;
    o.bos_id = (int32_t)bos_id;
    *ret = o;
    return 0;
}

static int read_batch(const struct safetensors *input, const char *ids, const char *ids_start,
                      struct micro_batch *ret, struct bl_error *err)
{
    const struct tensor *t;
    struct micro_batch mb = {0};
    BL_TRY(safetensors_expect(input, "pixels", 4, (const int64_t[]){-1, -1, -1, 3}, &t, err));
    mb.B = t->dims[0];
    mb.pixels = t->data;
    BL_TRY(safetensors_expect(input, ids_start, 1, &(const int64_t){mb.B + 1}, &t, err));
    mb.ids_start = t->data;
    BL_TRY(safetensors_expect(input, ids, 1, &(const int64_t){-1}, &t, err));
    mb.ids = t->data;
    BL_TRY(safetensors_expect(input, "labels", 1, &(const int64_t){-1}, &t, err));
    mb.labels = t->data;
    BL_TRY(safetensors_expect(input, "positions", 1, &(const int64_t){mb.B}, &t, err));
    mb.positions = t->data;
    *ret = mb;
    return 0;
}

void model_input_close(struct model_input *input)
{
    captioner_free(&input->c);
    ops_free(&input->ops);
    safetensors_free(&input->file);
    bl_json_free(&input->json);
}

/* As a worker does (engine_load.c). */
static int reserve(struct model_input *input, const struct captioner_options *options,
                   enum ops_precision precision, int threads, struct bl_error *err)
{
    const struct micro_batch *texts = &input->texts;
    int64_t longest = 0;
    for (int64_t b = 0; b < texts->B; b++)
        longest = bl_max(longest, texts->ids_start[b + 1] - texts->ids_start[b]);
    return input->ops->peak_bytes
               ? 0
               : rehearse_dry(input->c, options, precision, threads, texts->B, longest, err);
}

static int open_captioner(struct model_input *input, struct bl_error *err)
{
    struct captioner_options options;
    const char *weights = NULL, *device = "cpu";
    struct ops_device chosen;
    int precision = 0;
    int64_t threads = 1;
    BL_TRY(read_options(input->json, &options, err));
    BL_TRY(bl_json_string(input->json, "weights", &weights, err));
    BL_TRY(bl_json_int(input->json, "threads", 1, 1024, &threads, err));
    BL_TRY(choose(input->json, "precision", (const char *const[]){"f32", "bf16", NULL}, &precision,
                  err));
    if (!options.vision || !options.llm)
        return bl_fail(err, BL_ECONFIG, "expected vision and llm");
    input->experts = options.projector == CAPTIONER_MOE ? options.experts : 0;
    BL_TRY(bl_json_string(input->json, "device", &device, err));
    BL_TRY(ops_device_choose(device, &chosen, err));
    enum ops_precision products = precision ? OPS_BF16 : OPS_F32;
    BL_TRY(ops_open(&chosen, products, (int)threads, &input->ops, err));
    BL_TRY(captioner_open(input->ops, &options, &input->c, err));
    BL_TRY(reserve(input, &options, products, (int)threads, err));
    return weights ? weights_load(input->ops, input->c, weights, err) : 0;
}

int model_input_open(const char *options_path, const char *input_path, struct model_input *ret,
                     struct bl_error *err)
{
    BL_TRY(bl_json_open(options_path, 1 << 20, &ret->json, err));
    ret->max_new = 0;
    ret->beams = 1;
    BL_TRY(bl_json_int(ret->json, "max_new", 0, 1 << 20, &ret->max_new, err));
    BL_TRY(bl_json_int(ret->json, "beams", 1, 64, &ret->beams, err));
    BL_TRY(safetensors_open(input_path, &ret->file, err));
    BL_TRY(read_batch(ret->file, "ids", "ids_start", &ret->texts, err));
    BL_TRY(read_batch(ret->file, "prompt", "prompt_start", &ret->prompts, err));
    return open_captioner(ret, err);
}
