/* common/data/filters.c - see filters.h. */
#include "common/data/filters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "common/cleanup.h"
#include "common/pattern.h"
#include "common/utf8.h"

struct filters {
    const struct config_data *data;
    struct pattern **strip, **keep, **drop;
    struct pattern *script; /* one letter of it; NULL: any */
    bool ascii_is_script;   /* as for all ASCII letters at once */
};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

static int open_patterns(const struct config_strings *texts, struct pattern ***ret,
                         struct bl_error *err)
{
    *ret = calloc(texts->count + 1, sizeof **ret);
    if (!*ret)
        return fail_nomem(err);
    for (size_t i = 0; i < texts->count; i++)
        BL_TRY(pattern_open(texts->at[i], &(*ret)[i], err));
    return 0;
}

static int open_script(struct filters *f, struct bl_error *err)
{
    char text[80];
    if (!f->data->script)
        return 0;
    snprintf(text, sizeof text, "\\p{sc:%.60s}", f->data->script);
    if (pattern_open(text, &f->script, err) < 0)
        return bl_error_key(err, "data.script");
    return pattern_find(f->script, "a", 1, &f->ascii_is_script, err);
}

int filters_open(const struct config_data *data, struct filters **ret, struct bl_error *err)
{
    bl_auto(filters) struct filters *f = calloc(1, sizeof *f);
    if (!f)
        return fail_nomem(err);
    f->data = data;
    BL_TRY(open_patterns(&data->strip, &f->strip, err));
    BL_TRY(open_patterns(&data->keep, &f->keep, err));
    BL_TRY(open_patterns(&data->drop, &f->drop, err));
    BL_TRY(open_script(f, err));
    *ret = bl_take(&f);
    return 0;
}

static void free_patterns(struct pattern **patterns, size_t count)
{
    for (size_t i = 0; patterns && i < count; i++)
        pattern_free(&patterns[i]);
    free(patterns);
}

void filters_free(struct filters **filters)
{
    struct filters *f = *filters;
    if (!f)
        return;
    free_patterns(f->strip, f->data->strip.count);
    free_patterns(f->keep, f->data->keep.count);
    free_patterns(f->drop, f->data->drop.count);
    pattern_free(&f->script);
    free(f);
    *filters = NULL;
}

/* -- white space ------------------------------------------------------------------------------ */

/* Python's str.isspace: bidirectional type B, S or WS, or category Zs. */
static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* All are of three bytes at most. */
size_t filters_space(const char *text, size_t size)
{
    const unsigned char *t = (const unsigned char *)text;
    if (size && t[0] < 0x80)
        return is_space(t[0]);
    if (size >= 2 && t[0] == 0xc2 && is_space(t[1]))
        return 2; /* U+0080 to U+00BF: the second byte is the code point */
    if (size >= 3 && (t[0] & 0xf0) == 0xe0 && (t[1] & 0xc0) == 0x80 && (t[2] & 0xc0) == 0x80 &&
        is_space((uint32_t)(t[0] & 0x0f) << 12 | (uint32_t)(t[1] & 0x3f) << 6 | (t[2] & 0x3f)))
        return 3;
    return 0;
}

/* -- openings --------------------------------------------------------------------------------- */

/* What follows an opening, its first letter a capital. */
static int capitalize(const char *text, size_t size, struct bl_bytes *ret, struct bl_error *err)
{
    uint32_t point = 0;
    char first[4];
    int length = size ? utf8_next(text, size, &point) : 0;
    if (length > 0) {
        int written = utf8_put((uint32_t)utf8proc_totitle((utf8proc_int32_t)point), first);
        if (!bl_bytes_add(ret, first, (size_t)written))
            return fail_nomem(err);
        text += length;
        size -= (size_t)length;
    }
    return bl_bytes_add(ret, text, size) ? 0 : fail_nomem(err);
}

/* Names the pattern that failed. */
static int fail_rule(struct bl_error *err, const char *key, size_t i)
{
    return bl_error_key(err, "%s[%zu]", key, i);
}

int filters_strip(const struct filters *f, const char *text, size_t size, struct bl_bytes *spare,
                  const char **ret_text, size_t *ret_size, uint32_t *ret_rule, struct bl_error *err)
{
    size_t taken = 0, space;
    *ret_text = text;
    *ret_size = size;
    *ret_rule = FILTERS_NONE;
    for (size_t i = 0; i < f->data->strip.count; i++) {
        if (pattern_at_start(f->strip[i], text, size, &taken, err) < 0)
            return fail_rule(err, "data.strip", i);
        if (!taken)
            continue;
        while ((space = filters_space(text + taken, size - taken)))
            taken += space;
        spare->size = 0;
        BL_TRY(capitalize(text + taken, size - taken, spare, err));
        *ret_text = spare->data;
        *ret_size = spare->size;
        *ret_rule = (uint32_t)i;
        return 0;
    }
    return 0;
}

/* -- patterns --------------------------------------------------------------------------------- */

/* The first pattern that is found (`wanted`), or that is not. */
static int first_rule(struct pattern *const *patterns, size_t count, const char *key, bool wanted,
                      const char *text, size_t size, uint32_t *ret, struct bl_error *err)
{
    *ret = FILTERS_NONE;
    for (size_t i = 0; i < count; i++) {
        bool found;
        if (pattern_find(patterns[i], text, size, &found, err) < 0)
            return fail_rule(err, key, i);
        if (found == wanted) {
            *ret = (uint32_t)i;
            return 0;
        }
    }
    return 0;
}

int filters_keep(const struct filters *f, const char *text, size_t size, uint32_t *ret_rule,
                 struct bl_error *err)
{
    return first_rule(f->keep, f->data->keep.count, "data.keep", false, text, size, ret_rule, err);
}

int filters_drop(const struct filters *f, const char *text, size_t size, uint32_t *ret_rule,
                 struct bl_error *err)
{
    return first_rule(f->drop, f->data->drop.count, "data.drop", true, text, size, ret_rule, err);
}

/* -- scripts ---------------------------------------------------------------------------------- */

static bool is_letter(uint32_t point)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)point);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

int filters_script(const struct filters *f, const char *text, size_t size, bool *ret,
                   struct bl_error *err)
{
    size_t letters = 0, ascii = 0, other = 0;
    *ret = true;
    if (!f->script)
        return 0;
    for (size_t i = 0; i < size;) {
        uint32_t point = 0;
        int length = utf8_next(text + i, size - i, &point);
        size_t bytes = (size_t)(length < 0 ? -length : length);
        if (length == 1) {
            bool is_ascii = (point | 0x20) >= 'a' && (point | 0x20) <= 'z';
            letters += is_ascii;
            ascii += is_ascii;
        } else if (length > 0 && is_letter(point)) {
            bool found;
            BL_TRY(pattern_find(f->script, text + i, bytes, &found, err));
            letters++;
            other += found;
        }
        i += bytes;
    }
    size_t of_script = other + (f->ascii_is_script ? ascii : 0);
    *ret = letters && (double)of_script >= f->data->script_share * (double)letters;
    return 0;
}

/* -- numbers ---------------------------------------------------------------------------------- */

uint32_t filters_numbers(const struct config_filters *filters, const double *numbers)
{
    for (size_t i = 0; i < filters->count; i++)
        if (!(numbers[i] >= filters->at[i].min && numbers[i] <= filters->at[i].max))
            return (uint32_t)i;
    return FILTERS_NONE;
}

/* -- equal captions --------------------------------------------------------------------------- */

static bool is_ascii(const char *text, size_t size)
{
    unsigned char all = 0;
    for (size_t i = 0; i < size; i++)
        all |= (unsigned char)text[i];
    return all < 0x80;
}

/* In place, returns what is left of size. */
static size_t collapse(char *text, size_t size)
{
    size_t kept = 0, space;
    for (size_t i = 0; i < size;) {
        if (!(space = filters_space(text + i, size - i))) {
            text[kept++] = text[i++];
            continue;
        }
        i += space;
        if (kept && text[kept - 1] != ' ')
            text[kept++] = ' ';
    }
    return kept && text[kept - 1] == ' ' ? kept - 1 : kept;
}

/* ASCII is its own NFKC. */
static void lower_ascii(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] >= 'A' && text[i] <= 'Z')
            text[i] = (char)(text[i] + 32);
}

int filters_normalize(const char *text, size_t size, struct bl_bytes *ret, struct bl_error *err)
{
    size_t before = ret->size;
    bool ascii = is_ascii(text, size);
    bl_autofree utf8proc_uint8_t *folded = NULL;
    const utf8proc_option_t options =
        UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD | UTF8PROC_IGNORE;
    if (!ascii) {
        utf8proc_ssize_t length =
            utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &folded, options);
        if (length == UTF8PROC_ERROR_NOMEM)
            return fail_nomem(err);
        if (length >= 0) {
            text = (const char *)folded;
            size = (size_t)length;
        }
    }
    if (!bl_bytes_add(ret, text, size))
        return fail_nomem(err);
    if (ascii)
        lower_ascii(ret->data + before, size);
    ret->size = before + collapse(ret->data + before, size);
    return 0;
}
