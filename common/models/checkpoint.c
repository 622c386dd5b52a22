/* common/models/checkpoint.c - state.json of a checkpoint, written and read with its checksums. */
#include "common/models/checkpoint.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/file_hash.h"
#include "common/limits.h"

#define DUMP_FLAGS (JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(17))

static void json_put(json_t **json)
{
    json_decref(*json);
}
#define autojson __attribute__((cleanup(json_put))) json_t

int checkpoint_file_name(char *ret, size_t size, int part, const char *tensor, struct bl_error *err)
{
    static const char *const stems[CHECKPOINT_PARTS] = {
        [CHECKPOINT_QFORMER] = "qformer", [CHECKPOINT_PROJECTOR] = "projector"};
    int n = snprintf(ret, size, "%s%s%s.safetensors", stems[part], *tensor ? "." : "", tensor);
    if (n >= 0 && (size_t)n < size)
        return 0;
    return bl_fail(err, BL_ELIMIT, "the name %.100s is too long", tensor);
}

bool checkpoint_is_file_name(const char *name)
{
    static const char end[] = ".safetensors";
    size_t length = strlen(name);
    if (!strcmp(name, "state.json"))
        return true;
    if (strchr(name, '/') || length >= sizeof((struct checkpoint_file *)NULL)->name ||
        length < sizeof end || strcmp(name + length - (sizeof end - 1), end) != 0)
        return false;
    return !strncmp(name, "qformer.", 8) || !strncmp(name, "projector.", 10);
}

void checkpoint_state_release(struct checkpoint_state *state)
{
    free(state->config);
    state->config = NULL;
}

/* SHA-256 of the document without its own "sha256" key. */
static int own_checksum(json_t *root, char ret_hex[65], struct bl_error *err)
{
    autojson *copy = json_copy(root);
    json_object_del(copy, "sha256");
    bl_autofree char *text = json_dumps(copy, DUMP_FLAGS);
    if (!text)
        return bl_fail(err, BL_ENOMEM, "no memory for state.json");
    uint8_t hash[32];
    bl_sha256(text, strlen(text), hash);
    bl_hex(hash, sizeof hash, ret_hex);
    return 0;
}

int checkpoint_state_write(const char *folder, const struct checkpoint_state *s,
                           struct bl_error *err)
{
    char path[4096], hex[65];
    BL_TRY(bl_path_join(path, sizeof path, folder, "state.json", err));
    autojson *files = json_object();
    for (int i = 0; i < s->file_count; i++)
        json_object_set_new(files, s->files[i].name, json_string(s->files[i].sha256));
    autojson *zero = json_array();
    for (int i = 0; i < s->zero_count; i++)
        json_array_append_new(zero, json_string(s->zero[i]));
    autojson *root = json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:s, s:{s:s, s:s}, s:{s:s, s:s}, s:s, s:O, s:O, "
        "s:s, s:s}",
        "format", (int)s->model_identity, "step", (json_int_t)s->step, "updates",
        (json_int_t)s->updates, "skipped_bad", (json_int_t)s->skipped_bad, "skipped_outliers",
        (json_int_t)s->skipped_outliers, "norm_mean", s->norm_mean, "norm_square", s->norm_square,
        "norm_count", (json_int_t)s->norm_count, "data", s->data_fingerprint, "vision", "path",
        s->vision_path, "sha256", s->vision_sha256, "llm", "path", s->llm_path, "sha256",
        s->llm_sha256, "config", s->config, "files", files, "zero", zero, "weights_sha256",
        s->weights_sha256, "device", s->device);
    if (!root)
        return bl_fail(err, BL_ENOMEM,
                       "state.json cannot be composed (is the configuration valid UTF-8?)");
    BL_TRY(own_checksum(root, hex, err));
    json_object_set_new(root, "sha256", json_string(hex));
    bl_autofree char *text =
        json_dumps(root, JSON_SORT_KEYS | JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (!text)
        return bl_fail(err, BL_ENOMEM, "no memory for state.json");
    return bl_file_write(path, text, strlen(text), err);
}

/* Copies a string value into a fixed field. */
static bool take_text(char *ret, size_t size, const char *text)
{
    return (size_t)snprintf(ret, size, "%s", text) < size;
}

/* Keys that the first versions did not write; absent: no tensor without a file, no hash of the weights, nobody knows what
 * computed them. */
static int parse_later_keys(json_t *root, struct checkpoint_state *s, struct bl_error *err)
{
    const char *weights = "", *device = "";
    json_t *zero = NULL, *name;
    size_t i;
    json_error_t wrong;
    if (json_unpack_ex(root, &wrong, 0, "{s?s, s?s, s?o}", "weights_sha256", &weights, "device",
                       &device, "zero", &zero) < 0)
        return bl_fail(err, BL_EFORMAT, "%s", wrong.text);
    if (!take_text(s->weights_sha256, sizeof s->weights_sha256, weights))
        return bl_fail(err, BL_EFORMAT, "weights_sha256: expected 64 digits");
    take_text(s->device, sizeof s->device, device);
    json_array_foreach(zero, i, name)
    {
        if (s->zero_count == CHECKPOINT_ZERO_MAX || !json_is_string(name) ||
            !take_text(s->zero[s->zero_count++], sizeof *s->zero, json_string_value(name)))
            return bl_fail(err, BL_EFORMAT, "zero: expected at most %d names of tensors",
                           CHECKPOINT_ZERO_MAX);
    }
    return 0;
}

static int parse_state(json_t *root, struct checkpoint_state *s, struct bl_error *err)
{
    int format = 0;
    json_int_t step, updates, bad, outliers, norm_count;
    const char *data, *vision, *vision_hash, *llm, *llm_hash, *config;
    json_t *files, *value;
    json_error_t wrong;
    if (json_unpack_ex(
            root, &wrong, 0,
            "{s:i, s:I, s:I, s:I, s:I, s:F, s:F, s:I, s:s, s:{s:s, s:s}, s:{s:s, s:s}, s:s, s:o}",
            "format", &format, "step", &step, "updates", &updates, "skipped_bad", &bad,
            "skipped_outliers", &outliers, "norm_mean", &s->norm_mean, "norm_square",
            &s->norm_square, "norm_count", &norm_count, "data", &data, "vision", "path", &vision,
            "sha256", &vision_hash, "llm", "path", &llm, "sha256", &llm_hash, "config", &config,
            "files", &files) < 0)
        return bl_fail(err, BL_EFORMAT, "%s", wrong.text);
    if (format != HF_IDENTITY_WEIGHTS && format != HF_IDENTITY_ALL)
        return bl_fail(err, BL_EFORMAT, "expected format %d, found %d", HF_IDENTITY_ALL, format);
    s->model_identity = (enum hf_identity)format;
    if (step < 0 || updates < 0 || updates > step || norm_count < 0)
        return bl_fail(err, BL_EFORMAT,
                       "expected counters of at least 0, found step %lld, updates %lld",
                       (long long)step, (long long)updates);
    s->step = step;
    s->updates = updates;
    s->skipped_bad = bad;
    s->skipped_outliers = outliers;
    s->norm_count = norm_count;
    bool fits = take_text(s->data_fingerprint, sizeof s->data_fingerprint, data) &&
                take_text(s->vision_path, sizeof s->vision_path, vision) &&
                take_text(s->vision_sha256, sizeof s->vision_sha256, vision_hash) &&
                take_text(s->llm_path, sizeof s->llm_path, llm) &&
                take_text(s->llm_sha256, sizeof s->llm_sha256, llm_hash);
    const char *name;
    json_object_foreach(files, name, value)
    {
        if (!fits || s->file_count == CHECKPOINT_FILES_MAX || !json_is_string(value) ||
            strchr(name, '/'))
            return bl_fail(err, BL_EFORMAT, "expected at most %d file names with checksums",
                           CHECKPOINT_FILES_MAX);
        struct checkpoint_file *file = &s->files[s->file_count++];
        fits = take_text(file->name, sizeof file->name, name) &&
               take_text(file->sha256, sizeof file->sha256, json_string_value(value));
    }
    if (!fits)
        return bl_fail(err, BL_EFORMAT, "a path or a checksum is too long");
    BL_TRY(parse_later_keys(root, s, err));
    s->config = strdup(config);
    return s->config ? 0 : bl_fail(err, BL_ENOMEM, "no memory for the configuration");
}

static int read_state(const char *path, struct checkpoint_state *ret, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size;
    BL_TRY(bl_file_read(path, BL_CONFIG_BYTES_MAX * 2, &text, &size, err));
    json_error_t wrong;
    autojson *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &wrong);
    if (!json_is_object(root))
        return bl_fail(err, BL_EFORMAT, "line %d: %s", wrong.line,
                       root ? "expected an object" : wrong.text);
    char expected[65];
    const char *found = json_string_value(json_object_get(root, "sha256"));
    BL_TRY(own_checksum(root, expected, err));
    if (!found || strcmp(found, expected))
        return bl_fail(err, BL_EFORMAT, "checksum mismatch");
    return parse_state(root, ret, err);
}

int checkpoint_state_read(const char *folder, struct checkpoint_state *ret, struct bl_error *err)
{
    char path[4096];
    struct checkpoint_state state = {0};
    BL_TRY(bl_path_join(path, sizeof path, folder, "state.json", err));
    int rc = read_state(path, &state, err);
    if (rc < 0) {
        checkpoint_state_release(&state);
        bl_error_remedy(err, "use another checkpoint");
        return bl_error_file(err, path);
    }
    *ret = state;
    return 0;
}

bool checkpoint_is_zero(const struct checkpoint_state *state, const char *tensor)
{
    for (int i = 0; i < state->zero_count; i++)
        if (!strcmp(state->zero[i], tensor))
            return true;
    return false;
}

bool checkpoint_has_file(const struct checkpoint_state *state, const char *name)
{
    for (int i = 0; i < state->file_count; i++)
        if (!strcmp(state->files[i].name, name))
            return true;
    return false;
}

int checkpoint_verify(const char *folder, const struct checkpoint_state *state,
                      struct bl_error *err)
{
    bl_autofree char(*paths)[4096] = calloc(CHECKPOINT_FILES_MAX, sizeof *paths);
    const char *names[CHECKPOINT_FILES_MAX];
    char hex[CHECKPOINT_FILES_MAX][65];
    if (!paths)
        return bl_fail(err, BL_ENOMEM, "no memory for the names of files");
    for (int i = 0; i < state->file_count; i++) {
        BL_TRY(bl_path_join(paths[i], sizeof *paths, folder, state->files[i].name, err));
        names[i] = paths[i];
    }
    if (bl_files_sha256(names, state->file_count, hex, err) < 0)
        return bl_error_remedy(err, "use another checkpoint");
    for (int i = 0; i < state->file_count; i++) {
        if (!strcmp(hex[i], state->files[i].sha256))
            continue;
        bl_fail(err, BL_EFORMAT, "expected SHA-256 %.16s…, found %.16s…: the file is damaged",
                state->files[i].sha256, hex[i]);
        bl_error_remedy(err, "use another checkpoint");
        return bl_error_file(err, paths[i]);
    }
    return 0;
}
