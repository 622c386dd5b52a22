/* tests/fuzz/tokenizer_fuzz.c - the input is a tokenizer.json, then, after a NUL byte, a text that
 * is encoded by it and whose bytes are decoded as ids. */
#include <stdlib.h>
#include <string.h>

#include "common/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count)
{
    for (int skip = 0; skip < 2; skip++) {
        char *text = NULL;
        size_t size = 0;
        if (tokenizer_decode_sized(tokenizer, ids, count, skip, &text, &size, NULL) < 0)
            continue;
        fuzz_touch(text, size + 1);
        free(text);
    }
}

static void encode(const struct tokenizer *tokenizer, const char *text, size_t size)
{
    struct token_ids ids = {0};
    if (tokenizer_encode(tokenizer, text, size, true, &ids, NULL) == 0)
        for (size_t i = 0; i < ids.count; i++)
            if (!tokenizer_content(tokenizer, ids.ids[i]))
                __builtin_trap();
    decode(tokenizer, ids.ids, ids.count);
    token_ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t json_size = nul ? (size_t)(nul - data) : size;
    const uint8_t *text = nul ? nul + 1 : data;
    size_t text_size = nul ? size - json_size - 1 : size;
    struct tokenizer *tokenizer = NULL;
    struct bl_error err = {0};
    if (tokenizer_parse((const char *)data, json_size, "fuzz", &tokenizer, &err) < 0) {
        fuzz_touch(&err, sizeof err);
        return 0;
    }
    encode(tokenizer, (const char *)text, text_size);
    int32_t ids[64] = {0};
    size_t count = text_size < 64 ? text_size : 64;
    for (size_t i = 0; i < count; i++)
        ids[i] = text[i];
    decode(tokenizer, ids, count);
    tokenizer_free(&tokenizer);
    return 0;
}
