/* tests/fuzz/dataset_fuzz.c - any bytes, as dataset.index. The checksum is put right first, so that
 * the checks behind it are reached; then all that can be read is read. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "common/data/dataset_format.h"
#include "tests/fuzz/fuzz.h"

static void put_checksum(uint8_t *data, size_t size)
{
    struct dataset_header *h = (void *)data;
    size_t before = offsetof(struct dataset_header, made_from);
    if (size >= sizeof *h)
        crypto_hash_sha256(h->digest, data + before, size - before);
}

static void touch(const struct dataset *d)
{
    size_t sum = 0;
    for (uint64_t id = 0; id < dataset_samples(d); id++) {
        struct dataset_sample sample;
        dataset_sample(d, id, &sample);
        sum += strlen(sample.location.path) + sample.hash[31];
        for (uint32_t i = 0; i < sample.caption_count; i++) {
            struct dataset_caption caption;
            dataset_caption(d, id, i, &caption);
            BL_ASSERT_CMP(strlen(caption.text), <=, caption.size);
            BL_ASSERT_CMP(caption.tokens, <=, dataset_longest(d));
        }
    }
    for (int split = 0; split < DATASET_SPLIT_COUNT; split++)
        for (uint64_t i = 0; i < dataset_count(d, (enum dataset_split)split); i++)
            BL_ASSERT_CMP(dataset_id(d, (enum dataset_split)split, i), <, dataset_samples(d));
    for (uint32_t i = 0; i < dataset_example_count(d); i++) {
        struct dataset_example example;
        dataset_example(d, i, &example);
        sum += strlen(example.text);
    }
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++) {
        const char *name;
        for (uint32_t i = 0; (name = dataset_passed_name(d, (enum source_passed)kind, i)); i++)
            sum += strlen(name);
    }
    BL_ASSERT_CMP(sum, <, INT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    struct dataset *dataset = NULL;
    uint8_t *copy = malloc(size > 0 ? size : 1);
    BL_ASSERT(copy);
    memcpy(copy, data, size);
    put_checksum(copy, size);
    if (dataset_parse(copy, size, "dataset.index", &dataset, &err) < 0)
        BL_ASSERT(dataset == NULL && err.text[0] != '\0');
    else
        touch(dataset);
    dataset_free(&dataset);
    free(copy);
    return 0;
}
