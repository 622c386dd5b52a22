/* common/config/text.c - a configuration as text, and what is told by it: what changed, digests, the reference. */
#include "common/config/parts.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/hash.h"

static bool is_absent(const struct config *config, const struct config_key *key)
{
    if (key->type == CONFIG_SOURCES)
        return !config->data.sources.written;
    return (key->type == CONFIG_TEXT || key->type == CONFIG_PATH) && !key->may_auto &&
           !*(char *const *)((const char *)config + key->offset);
}

/* A key's value as YAML, to the end of its line. */
static void print_value(FILE *out, const struct config *config, const struct config_key *key)
{
    const void *at = (const char *)config + key->offset;
    switch (key->type) {
    case CONFIG_BOOL:
        fputs(*(const bool *)at ? "true" : "false", out);
        break;
    case CONFIG_INT:
        if (key->may_auto && *(const int64_t *)at == key->auto_value)
            fputs("auto", out);
        else
            fprintf(out, "%lld", (long long)*(const int64_t *)at);
        break;
    case CONFIG_REAL:
        config_print_real(out, *(const double *)at);
        break;
    case CONFIG_CHOICE:
        fputs(key->choices[*(const int *)at], out);
        break;
    case CONFIG_TEXT:
    case CONFIG_PATH:
        config_print_path(out, *(char *const *)at, key->hub);
        break;
    case CONFIG_PATTERNS: {
        const struct config_strings *list = at;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", " : "", out);
            config_print_text(out, list->at[i]);
        }
        putc(']', out);
        break;
    }
    case CONFIG_CAPTIONS: {
        const struct config_captions *list = at;
        config_print_captions(out, list->at, list->written);
        break;
    }
    case CONFIG_SOURCES:
        config_print_sources(out, config, true);
        break;
    case CONFIG_FILTERS: {
        const struct config_filters *list = at;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", " : "", out);
            config_print_filter(out, &list->at[i]);
        }
        putc(']', out);
        break;
    }
    }
    putc('\n', out);
}

int config_print(struct config *config, struct bl_error *err)
{
    size_t size;
    bool begun = false;
    FILE *out = open_memstream(&config->text, &size);
    if (!out)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        begun &= !config_starts_section(i); /* whose first key may be absent */
        if (is_absent(config, key))
            continue;
        size_t section = (size_t)(config_leaf(key->path) - key->path);
        if (section && !begun)
            fprintf(out, "%.*s:\n", (int)section - 1, key->path);
        begun = true;
        fprintf(out, "%s%s: ", section ? "  " : "", config_leaf(key->path));
        print_value(out, config, key);
    }
    return fclose(out) ? bl_fail(err, BL_ENOMEM, "out of memory") : 0;
}

/* The value as one line of text, the caller's; of sources without their places, which may change. */
static char *value_text(const struct config *config, const struct config_key *key)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    if (is_absent(config, key))
        fputs("nothing\n", out);
    else if (key->type == CONFIG_SOURCES) {
        config_print_sources(out, config, false);
        putc('\n', out);
    } else
        print_value(out, config, key);
    if (fclose(out) || !size)
        return NULL;
    text[size - 1] = 0;
    return text;
}

/* Grain means nothing unless gradients are rounded in it. */
static bool compared(const struct config_key *key, const struct config *config)
{
    return strcmp(key->path, "train.grain") || config->train.reproducible;
}

int config_may_resume(const struct config *before, const struct config *now, char *notice,
                      size_t notice_size, struct bl_error *err)
{
    size_t used = 0;
    notice[0] = 0;
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        if (key->change == CONFIG_FREE || !compared(key, now))
            continue;
        bl_autofree char *was = value_text(before, key);
        bl_autofree char *is = value_text(now, key);
        if (!was || !is)
            return bl_fail(err, BL_ENOMEM, "out of memory");
        if (!strcmp(was, is))
            continue;
        if (key->change == CONFIG_FIXED) {
            bl_fail(err, BL_ECONFIG, "the run was started with %.150s, found %.150s", was, is);
            bl_error_key(err, "%s", key->path);
            return bl_error_remedy(err, "set it back, or start another run in a new run_dir");
        }
        if (used < notice_size)
            used += (size_t)snprintf(notice + used, notice_size - used, "%s%s was %.40s, is %.40s",
                                     used ? ", " : "", key->path, was, is);
    }
    if (used && used < notice_size)
        snprintf(notice + used, notice_size - used,
                 ": the learning rate follows the new schedule from here on");
    return 0;
}

/* SHA-256 over the lines of some keys. */
static void digest(const struct config *config, bool (*wanted)(const struct config_key *),
                   uint8_t ret[32])
{
    struct bl_sha256 hash;
    bl_sha256_begin(&hash);
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        if (!wanted(key) || !compared(key, config) ||
            (key->type == CONFIG_SOURCES && is_absent(config, key)))
            continue;
        bl_autofree char *text = value_text(config, key);
        BL_ASSERT(text); /* a line of text could not be allocated: nothing sensible is left to do */
        bl_sha256_add(&hash, key->path, strlen(key->path) + 1);
        bl_sha256_add(&hash, text, strlen(text) + 1);
    }
    bl_sha256_end(&hash, ret);
}

char *config_caption_rules(const struct config *config)
{
    static const char *const of_images[] = {"data.format", "data.image_column", "data.validation",
                                            "data.max_image_bytes"};
    char *all = NULL;
    size_t size;
    FILE *out = open_memstream(&all, &size);
    const struct config_key *key;
    for (size_t i = 0; out && (key = config_key_at(i)); i++) {
        bool wanted = !strncmp(key->path, "data.", 5) &&
                      (key->index || !strcmp(key->path, "data.train_prefix")) &&
                      !is_absent(config, key);
        for (size_t j = 0; j < sizeof of_images / sizeof *of_images; j++)
            wanted = wanted && strcmp(key->path, of_images[j]) != 0;
        bl_autofree char *text = wanted ? value_text(config, key) : NULL;
        if (text)
            fprintf(out, "%s: %s\n", key->path, text);
    }
    if (!out || fclose(out))
        return NULL;
    return all;
}

static bool is_fixed(const struct config_key *key)
{
    return key->change == CONFIG_FIXED;
}

static bool is_index(const struct config_key *key)
{
    return key->index;
}

void config_digest(const struct config *config, uint8_t ret[32])
{
    digest(config, is_fixed, ret);
}

void config_data_digest(const struct config *config, uint8_t ret[32])
{
    digest(config, is_index, ret);
}

int config_print_reference(FILE *out)
{
    static const char *const change[] = {
        [CONFIG_FIXED] = "no", [CONFIG_TOLD] = "yes, with a notice", [CONFIG_FREE] = "yes"};
    fputs("# RUN.yaml\n\n"
          "Printed from the schema table (common/config/schema_*.c); a test compares the two.\n\n"
          "One YAML document of keys and sections. Unknown and repeated keys, values of another "
          "type and numbers outside their range are errors with line and column. Numbers are "
          "decimal, bools are `true` or `false`; anchors, aliases and tags are refused. Relative "
          "paths start at the file's folder. The last column says whether a run folder may be "
          "resumed with another value; what the folders hold is compared by hash.\n",
          out);
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        char expected[256];
        size_t section = (size_t)(config_leaf(key->path) - key->path);
        if (config_starts_section(i))
            fprintf(out,
                    "\n## %.*s\n\n| key | takes | default | changes on resume | |\n"
                    "| --- | --- | --- | --- | --- |\n",
                    section ? (int)section - 1 : 7, section ? key->path : "The run");
        config_expectation(key, expected, sizeof expected);
        fprintf(out, "| `%s` | %s | %s%s%s | %s | %s |\n", key->path, expected,
                key->fallback && *key->fallback ? "`" : "",
                !key->fallback   ? "required"
                : *key->fallback ? key->fallback
                                 : "none",
                key->fallback && *key->fallback ? "`" : "", change[key->change], key->help);
    }
    return ferror(out) ? -BL_EIO : 0;
}
