/* common/pattern.c - PCRE2 behind pattern.h. */
#include "common/pattern.h"

#include <stdint.h>
#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/cleanup.h"
#include "common/limits.h"

struct pattern {
    pcre2_code *code;
    pcre2_match_context *limits;
};

int pattern_open(const char *text, struct pattern **ret, struct bl_error *err)
{
    bl_auto(pattern) struct pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern || !(pattern->limits = pcre2_match_context_create(NULL)))
        return bl_fail(err, BL_ENOMEM, "out of memory");
    pcre2_set_match_limit(pattern->limits, BL_PATTERN_MATCH_LIMIT);
    int code;
    PCRE2_SIZE offset;
    pattern->code =
        pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_UCP, &code, &offset, NULL);
    if (!pattern->code) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(code, message, sizeof message);
        return bl_fail(err, BL_ECONFIG, "not a pattern: %s at its byte %zu", (const char *)message,
                       (size_t)offset);
    }
    *ret = bl_take(&pattern);
    return 0;
}

void pattern_free(struct pattern **pattern)
{
    if (!*pattern)
        return;
    pcre2_match_context_free((*pattern)->limits);
    pcre2_code_free((*pattern)->code);
    free(*pattern);
    *pattern = NULL;
}

/* *ret_end: where the match ends; SIZE_MAX: there is none. */
static int match(const struct pattern *pattern, const char *text, size_t size, uint32_t options,
                 size_t *ret_end, struct bl_error *err)
{
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    if (!data)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    int rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, size, 0, options, data, pattern->limits);
    *ret_end = rc >= 0 ? pcre2_get_ovector_pointer(data)[1] : SIZE_MAX;
    pcre2_match_data_free(data);
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT)
        return bl_fail(err, BL_ELIMIT, "the pattern needs too many steps on \"%.60s\"", text);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(rc, message, sizeof message);
        return bl_fail(err, BL_EFORMAT, "the pattern cannot be matched with \"%.60s\": %s", text,
                       (const char *)message);
    }
    return 0;
}

int pattern_find(const struct pattern *pattern, const char *text, size_t size, bool *ret,
                 struct bl_error *err)
{
    size_t end;
    BL_TRY(match(pattern, text, size, 0, &end, err));
    *ret = end != SIZE_MAX;
    return 0;
}

int pattern_at_start(const struct pattern *pattern, const char *text, size_t size, size_t *ret,
                     struct bl_error *err)
{
    size_t end;
    BL_TRY(match(pattern, text, size, PCRE2_ANCHORED, &end, err));
    *ret = end == SIZE_MAX ? 0 : end;
    return 0;
}
