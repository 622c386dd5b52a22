/* tests/fuzz/tar_fuzz.c - any bytes as a tar shard: refused with a message, or samples whose images lie inside the bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/data/source.h"
#include "common/tar/tar.h"
#include "tests/fuzz/fuzz.h"

static const char *const columns[] = {"text", "caption"};

static void touch(const struct source *source, size_t size)
{
    for (uint64_t id = 0; id < source_count(source); id++) {
        struct source_sample sample;
        uint64_t offset, length;
        char *text = NULL;
        source_get(source, id, &sample, NULL);
        fuzz_touch(sample.image, strlen(sample.image));
        if (source_locate(source, id, &text, NULL) == 0) {
            BL_ASSERT(sscanf(text, "range:%" SCNu64 "+%" SCNu64 ":", &offset, &length) == 2);
            BL_ASSERT(length <= size && offset <= size - length);
        }
        free(text);
        for (uint64_t i = 0; i < sample.candidate_count; i++) {
            struct source_candidate c;
            source_candidate(source, id, i, &c);
            BL_ASSERT_CMP(c.column, <, 2);
            BL_ASSERT_CMP(strlen(c.text), ==, c.size);
        }
    }
}

static void read_members(const uint8_t *data, size_t size)
{
    struct tar *tar = NULL;
    struct tar_member member;
    struct bl_error err = {0};
    if (tar_parse(data, size, &tar, &err) < 0)
        return;
    while (tar_next(tar, &member, &err) == 0 && member.name) {
        char *bytes = NULL;
        size_t count;
        if (member.plain && tar_read(tar, &member, size, &bytes, &count, &err) == 0)
            fuzz_touch(bytes, count);
        free(bytes);
    }
    tar_free(&tar);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    struct source *source = NULL;
    read_members(data, size);
    if (source_parse("fuzz.tar", data, size, columns, 2, &source, &err) < 0) {
        BL_ASSERT(source == NULL && err.text[0] != '\0');
        return 0;
    }
    touch(source, size);
    source_free(&source);
    return 0;
}
