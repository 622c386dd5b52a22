/* worker/caption_trace.c - see caption_trace.h. */
#include "worker/caption_trace.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/captions.h"

static int copy_stripped(const char *text, size_t size, char **ret, struct bl_error *err)
{
    const char *inner = caption_strip(text, size, &size);
    *ret = strndup(inner, size);
    return *ret ? 0 : bl_fail(err, BL_ENOMEM, "out of memory");
}

int caption_trace_open(struct caption_trace_end *end, const struct tokenizer *tokenizer,
                       const struct config_caption *column, struct bl_error *err)
{
    end->tokenizer = tokenizer;
    if (!column->trace)
        return 0;
    BL_TRY(copy_stripped(column->open, strlen(column->open), &end->open, err));
    BL_TRY(copy_stripped(column->close, strlen(column->close), &end->close, err));
    return tokenizer_encode(tokenizer, end->close, strlen(end->close), false, &end->ids, err);
}

void caption_trace_release(struct caption_trace_end *end)
{
    free(end->open);
    free(end->close);
    token_ids_release(&end->ids);
}

/* Where close's ids begin among ids; count: nowhere. */
static size_t find_close(const struct caption_trace_end *end, const int32_t *ids, size_t count)
{
    size_t length = end->ids.count;
    for (size_t i = 0; length && i + length <= count; i++)
        if (!memcmp(ids + i, end->ids.ids, length * sizeof *ids))
            return i;
    return count;
}

static int decode(const struct caption_trace_end *end, const int32_t *ids, size_t count, char **ret,
                  struct bl_error *err)
{
    bl_autofree char *text = NULL;
    BL_TRY(tokenizer_decode(end->tokenizer, ids, count, true, &text, err));
    return copy_stripped(text, strlen(text), ret, err);
}

/* A trace without the tag that it begins with. */
static int drop_open(const struct caption_trace_end *end, char **trace, struct bl_error *err)
{
    bl_autofree char *whole = *trace;
    size_t length = strlen(end->open);
    const char *rest = strncmp(whole, end->open, length) ? whole : whole + length;
    *trace = NULL;
    return copy_stripped(rest, strlen(rest), trace, err);
}

/* Close may be spelt by other ids than those it has alone, where letters around it merge with it. */
static int split_text(const struct caption_trace_end *end, const int32_t *ids, size_t count,
                      char **ret_trace, char **ret_caption, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    BL_TRY(decode(end, ids, count, &text, err));
    const char *close = strstr(text, end->close);
    const char *rest = close ? close + strlen(end->close) : "";
    BL_TRY(copy_stripped(text, close ? (size_t)(close - text) : strlen(text), ret_trace, err));
    return copy_stripped(rest, strlen(rest), ret_caption, err);
}

static int split(const struct caption_trace_end *end, const int32_t *ids, size_t count,
                 char **ret_trace, char **ret_caption, struct bl_error *err)
{
    if (!end->close) {
        BL_TRY(copy_stripped("", 0, ret_trace, err));
        return decode(end, ids, count, ret_caption, err);
    }
    size_t at = find_close(end, ids, count), after = at + end->ids.count;
    if (at == count) {
        BL_TRY(split_text(end, ids, count, ret_trace, ret_caption, err));
    } else {
        BL_TRY(decode(end, ids, at, ret_trace, err));
        BL_TRY(decode(end, ids + after, count - after, ret_caption, err));
    }
    return drop_open(end, ret_trace, err);
}

int caption_trace_split(const struct caption_trace_end *end, const int32_t *ids, size_t count,
                        char **ret_trace, char **ret_caption, struct bl_error *err)
{
    bl_autofree char *trace = NULL, *caption = NULL;
    BL_TRY(split(end, ids, count, &trace, &caption, err));
    *ret_trace = bl_take(&trace);
    *ret_caption = bl_take(&caption);
    return 0;
}
