/* tests/tools/tokenize_lines.c - the tokenizer of a folder as a filter, for comparing it with
 * others: `tokenize_lines FOLDER < requests > answers`.
 *
 *   request  one letter, a count, that many bytes or ids
 *            e encode, E with special tokens, d decode, D without special tokens
 *   answer   a count, that many ids or bytes
 *
 * Counts and ids are 32 bits in the machine's order. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/tokenizer/tokenizer.h"

#define COUNT_MAX (64 << 20)

static int fail(const struct bl_error *err)
{
    char line[1600];
    bl_error_format(err, line, sizeof line);
    fprintf(stderr, "tokenize_lines: %s\n", line);
    return bl_error_exit_code(err->code);
}

static void answer(const void *items, size_t size, size_t count)
{
    uint32_t count32 = (uint32_t)count;
    fwrite(&count32, sizeof count32, 1, stdout);
    fwrite(items, size, count, stdout);
}

static int answer_encode(const struct tokenizer *tokenizer, const char *text, size_t size,
                         bool special, struct bl_error *err)
{
    struct token_ids ids = {0};
    int rc = tokenizer_encode(tokenizer, text, size, special, &ids, err);
    if (rc >= 0)
        answer(ids.ids, sizeof *ids.ids, ids.count);
    token_ids_release(&ids);
    return rc;
}

static int answer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                         bool skip_special, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size = 0;
    BL_TRY(tokenizer_decode_sized(tokenizer, ids, count, skip_special, &text, &size, err));
    answer(text, 1, size);
    return 0;
}

/* Reads one request and answers it. Returns 1 at the end of the input. */
static int serve(const struct tokenizer *tokenizer, struct bl_error *err)
{
    int letter = getchar();
    if (letter == EOF)
        return 1;
    bool decode = letter == 'd' || letter == 'D';
    uint32_t count;
    if (fread(&count, sizeof count, 1, stdin) != 1 || count > COUNT_MAX)
        return bl_fail(err, BL_EFORMAT, "expected a count of at most %d", COUNT_MAX);
    bl_autofree void *items = calloc((size_t)count + 1, sizeof(int32_t));
    if (!items)
        return bl_fail(err, BL_ENOMEM, "no memory for %u items", count);
    if (fread(items, decode ? sizeof(int32_t) : 1, count, stdin) != count)
        return bl_fail(err, BL_EFORMAT, "expected %u items, found the input's end", count);
    if (decode)
        return answer_decode(tokenizer, items, count, letter == 'D', err);
    if (letter == 'e' || letter == 'E')
        return answer_encode(tokenizer, items, count, letter == 'E', err);
    return bl_fail(err, BL_EFORMAT, "expected e, E, d or D, found byte %d", letter);
}

int main(int argc, char **argv)
{
    bl_auto(tokenizer) struct tokenizer *tokenizer = NULL;
    struct bl_error err;
    if (argc != 2) {
        fprintf(stderr, "usage: tokenize_lines FOLDER\n");
        return 2;
    }
    if (tokenizer_open(argv[1], &tokenizer, &err) < 0)
        return fail(&err);
    int rc;
    while ((rc = serve(tokenizer, &err)) == 0)
        ;
    if (rc < 0)
        return fail(&err);
    return fflush(stdout) == 0 ? 0 : 1;
}
