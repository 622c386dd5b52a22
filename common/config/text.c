/* common/config/text.c - a configuration as text, and what is told by it: what changed, digests, the reference. */
#include "common/config/parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/hash.h"

/* The shortest digits that read back as the same number. */
static void print_real(FILE *out, double value)
{
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    fputs(digits, out);
}

/* In double quotes, as YAML and JSON both read it. */
static void print_text(FILE *out, const char *text)
{
    putc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < 0x20 || *c == 0x7f)
            fprintf(out, "\\u%04x", *c);
        else
            putc(*c, out);
    putc('"', out);
}

static void print_filter(FILE *out, const struct config_filter *filter, const char *before)
{
    fprintf(out, "%s{column: ", before);
    print_text(out, filter->column);
    if (isfinite(filter->min)) {
        fputs(", min: ", out);
        print_real(out, filter->min);
    }
    if (isfinite(filter->max)) {
        fputs(", max: ", out);
        print_real(out, filter->max);
    }
    putc('}', out);
}

static void print_trace(FILE *out, const struct config_caption *caption)
{
    static const char *const labels[] = {"both", "trace", "caption"};
    const char *const texts[] = {caption->trace, caption->open, caption->close};
    static const char *const names[] = {"trace", "open", "close"};
    for (int i = 0; i < 3; i++) {
        fprintf(out, ", %s: ", names[i]);
        print_text(out, texts[i]);
    }
    fprintf(out, ", labels: %s", labels[caption->labels]);
}

/* A text, or auto. */
static void print_path(FILE *out, const char *text, enum hub_kind hub)
{
    char name[HUB_NAME_MAX + HUB_REVISION_MAX];
    if (!text)
        fputs("auto", out);
    else
        print_text(out, hub != HUB_NONE && hub_name(text, name, sizeof name) ? name : text);
}

static bool is_absent(const struct config *config, const struct config_key *key)
{
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
        print_real(out, *(const double *)at);
        break;
    case CONFIG_CHOICE:
        fputs(key->choices[*(const int *)at], out);
        break;
    case CONFIG_TEXT:
    case CONFIG_PATH:
        print_path(out, *(char *const *)at, key->hub);
        break;
    case CONFIG_PATTERNS: {
        const struct config_strings *list = at;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", " : "", out);
            print_text(out, list->at[i]);
        }
        putc(']', out);
        break;
    }
    case CONFIG_CAPTIONS: {
        const struct config_captions *list = at;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", {column: " : "{column: ", out);
            print_text(out, list->at[i].column);
            fputs(", prefix: ", out);
            print_text(out, list->at[i].prefix);
            if (!*list->at[i].join)
                fputs(", join: \"\"", out);
            if (list->at[i].trace)
                print_trace(out, &list->at[i]);
            putc('}', out);
        }
        putc(']', out);
        break;
    }
    case CONFIG_FILTERS: {
        const struct config_filters *list = at;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++)
            print_filter(out, &list->at[i], i ? ", " : "");
        putc(']', out);
        break;
    }
    }
    putc('\n', out);
}

int config_print(struct config *config, struct bl_error *err)
{
    size_t size;
    FILE *out = open_memstream(&config->text, &size);
    if (!out)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        if (is_absent(config, key))
            continue;
        size_t section = (size_t)(config_leaf(key->path) - key->path);
        if (section && config_starts_section(i))
            fprintf(out, "%.*s:\n", (int)section - 1, key->path);
        fprintf(out, "%s%s: ", section ? "  " : "", config_leaf(key->path));
        print_value(out, config, key);
    }
    return fclose(out) ? bl_fail(err, BL_ENOMEM, "out of memory") : 0;
}

/* The value as one line of text, the caller's. */
static char *value_text(const struct config *config, const struct config_key *key)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    if (is_absent(config, key))
        fputs("nothing\n", out);
    else
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
        if (!wanted(key) || !compared(key, config))
            continue;
        bl_autofree char *text = value_text(config, key);
        BL_ASSERT(text); /* a line of text could not be allocated: nothing sensible is left to do */
        bl_sha256_add(&hash, key->path, strlen(key->path) + 1);
        bl_sha256_add(&hash, text, strlen(text) + 1);
    }
    bl_sha256_end(&hash, ret);
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
