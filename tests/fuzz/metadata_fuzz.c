/* tests/fuzz/metadata_fuzz.c - any bytes, as metadata.csv (first byte even) or metadata.jsonl (odd):
 * refused with a message, or samples below the folder. */
#include <string.h>

#include "common/data/source.h"
#include "tests/fuzz/fuzz.h"

static const char *const columns[] = {"text", "caption"};

static void touch(const struct source *source)
{
    size_t sum = 0;
    for (uint64_t id = 0; id < source_count(source); id++) {
        struct source_sample sample;
        source_get(source, id, &sample, NULL);
        BL_ASSERT(sample.image[0] != '/' && sample.image[0] != '\0');
        BL_ASSERT(strncmp(sample.image, "../", 3) != 0 && !strstr(sample.image, "/../"));
        for (uint64_t i = 0; i < sample.candidate_count; i++) {
            struct source_candidate c;
            source_candidate(source, id, i, &c);
            BL_ASSERT_CMP(c.column, <, 2);
            BL_ASSERT_CMP(strlen(c.text), ==, c.size);
            sum += c.size;
        }
    }
    BL_ASSERT_CMP(sum, <, INT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    if (!size)
        return 0;
    const char *name = data[0] % 2 ? "metadata.jsonl" : "metadata.csv";
    if (source_parse(name, data + 1, size - 1, columns, 2, &source, &err) < 0) {
        BL_ASSERT(source == NULL && err.text[0] != '\0');
        return 0;
    }
    touch(source);
    source_free(&source);
    return 0;
}
