/* loader/tokenize.c - `blipren-loader tokenize`: texts as ids, and back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/limits.h"
#include "common/tokenizer/tokenizer.h"
#include "loader/commands.h"

static void print_ids(const struct tokenizer *tokenizer, const struct token_ids *ids, bool tokens,
                      FILE *out)
{
    for (size_t i = 0; i < ids->count; i++) {
        const char *content = tokens ? tokenizer_content(tokenizer, ids->ids[i]) : NULL;
        if (tokens)
            fprintf(out, "%d\t%s\n", ids->ids[i], content ? content : "");
        else
            fprintf(out, "%s%d", i ? " " : "", ids->ids[i]);
    }
    putc('\n', out);
}

static int fail_id(long number, int32_t count, const char *found, struct bl_error *err)
{
    bl_fail(err, BL_EFORMAT, "expected ids below %d between spaces, found \"%.40s\"", count, found);
    bl_error_key(err, "line %ld", number);
    return bl_error_remedy(err, "give ids as this command prints them");
}

/* The whole numbers of a line, below count, into ids. */
static int parse_ids(const char *line, long number, int32_t count, struct token_ids *ids,
                     struct bl_error *err)
{
    const char *at = line;
    while (*(at += strspn(at, " \t"))) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno || id < 0 || id >= count || (*end && !strchr(" \t", *end)))
            return fail_id(number, count, at, err);
        if (!bl_grow(&ids->ids, &ids->capacity, ids->count + 1, sizeof *ids->ids))
            return bl_fail(err, BL_ENOMEM, "line %ld: no memory for %zu ids", number,
                           ids->count + 1);
        ids->ids[ids->count++] = (int32_t)id;
        at = end;
    }
    return 0;
}

static int decode_line(const struct tokenizer *tokenizer, const struct tokenize_options *o,
                       const char *line, long number, struct token_ids *ids, FILE *out,
                       struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size = 0;
    BL_TRY(parse_ids(line, number, tokenizer_vocabulary_size(tokenizer), ids, err));
    BL_TRY(tokenizer_decode_sized(tokenizer, ids->ids, ids->count, !o->special, &text, &size, err));
    fwrite(text, 1, size, out);
    putc('\n', out);
    return 0;
}

static int encode_line(const struct tokenizer *tokenizer, const struct tokenize_options *o,
                       const char *line, size_t size, struct token_ids *ids, FILE *out,
                       struct bl_error *err)
{
    BL_TRY(tokenizer_encode(tokenizer, line, size, o->special, ids, err));
    print_ids(tokenizer, ids, o->tokens, out);
    return 0;
}

int tokenize_run(const struct tokenize_options *o, FILE *in, FILE *out, struct bl_error *err)
{
    bl_auto(tokenizer) struct tokenizer *tokenizer = NULL;
    bl_autofree char *line = NULL;
    struct token_ids ids = {0};
    size_t capacity = 0;
    ssize_t size;
    int rc = 0;
    BL_TRY(tokenizer_open(o->model, &tokenizer, err));
    for (long number = 1; rc == 0 && (size = getline(&line, &capacity, in)) >= 0; number++) {
        if (size && line[size - 1] == '\n')
            line[--size] = 0;
        ids.count = 0;
        rc = o->decode ? decode_line(tokenizer, o, line, number, &ids, out, err)
                       : encode_line(tokenizer, o, line, (size_t)size, &ids, out, err);
    }
    token_ids_release(&ids);
    if (rc == 0 && (ferror(in) || fflush(out) != 0))
        rc = bl_fail_errno(err, "input or output broke off");
    return rc;
}
