/* common/data/dataset_hold_out.c - which images are for validation: a share, by an image's content. */
#include <stdlib.h>
#include <string.h>

#include "common/data/dataset_format.h"
#include "common/random.h"

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

static int compare_hashes(const void *a, const void *b)
{
    return memcmp(a, b, 32);
}

int dataset_hashes_add(struct dataset_hashes *hashes, const uint8_t hash[32], struct bl_error *err)
{
    if (!bl_grow(&hashes->at, &hashes->capacity, hashes->count + 1, 32))
        return fail_nomem(err);
    memcpy(hashes->at[hashes->count++], hash, 32);
    return 0;
}

void dataset_hashes_sort(struct dataset_hashes *hashes)
{
    if (hashes->count)
        qsort(hashes->at, hashes->count, 32, compare_hashes);
}

bool dataset_hashes_has(const struct dataset_hashes *sorted, const uint8_t hash[32])
{
    return sorted->count && bsearch(hash, sorted->at, sorted->count, 32, compare_hashes);
}

/* An image's rank in the order that decides the split: the first are held out. */
struct rank {
    uint64_t draw;
    uint8_t hash[32];
};

static struct rank rank_of(const struct config *config, const uint8_t hash[32])
{
    struct rank rank;
    uint64_t words[2];
    uint32_t drawn[4];
    memcpy(words, hash, sizeof words);
    bl_draw((uint64_t)config->seed, BL_RANDOM_SPLIT, words[0], words[1], drawn);
    rank.draw = (uint64_t)drawn[1] << 32 | drawn[0];
    memcpy(rank.hash, hash, sizeof rank.hash);
    return rank;
}

static int compare_ranks(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    if (x->draw != y->draw)
        return x->draw < y->draw ? -1 : 1;
    return memcmp(x->hash, y->hash, sizeof x->hash);
}

/* The last of the first `wanted` different images, or of all where there are fewer. */
static int nth_rank(const struct config *config, const struct dataset_row *rows, uint64_t count,
                    uint64_t wanted, struct rank *ret, struct bl_error *err)
{
    struct rank *ranks = calloc(count + 1, sizeof *ranks);
    if (!ranks)
        return fail_nomem(err);
    for (uint64_t i = 0; i < count; i++)
        ranks[i] = rank_of(config, rows[i].hash);
    qsort(ranks, count, sizeof *ranks, compare_ranks);
    uint64_t different = 0;
    for (uint64_t i = 0; i < count && different < wanted; i++)
        if (!i || compare_ranks(&ranks[i], &ranks[i - 1])) {
            different++;
            *ret = ranks[i];
        }
    free(ranks);
    return 0;
}

/* The samples of one source that its data.validation holds out. */
static int hold_out_of(const struct config *config, const struct dataset_of *source, double share,
                       struct dataset_row *rows, struct bl_error *err)
{
    struct rank last = {0};
    if (share >= 1)
        BL_TRY(nth_rank(config, rows, source->sample_count, (uint64_t)share, &last, err));
    for (uint64_t i = 0; i < source->sample_count; i++) {
        struct rank rank = rank_of(config, rows[i].hash);
        if (share >= 1 ? compare_ranks(&rank, &last) <= 0 : (double)rank.draw * 0x1p-64 < share)
            rows[i].split = DATASET_VALIDATION;
    }
    return 0;
}

/* Sources may hold out different shares, or by folders: an image that one of them validates is trained by none. */
static int split_alike(uint64_t count, struct dataset_row *rows, struct dataset_hashes *held_out,
                       struct bl_error *err)
{
    for (uint64_t i = 0; i < count; i++)
        if (rows[i].split == DATASET_VALIDATION)
            BL_TRY(dataset_hashes_add(held_out, rows[i].hash, err));
    dataset_hashes_sort(held_out);
    for (uint64_t i = 0; i < count; i++)
        if (dataset_hashes_has(held_out, rows[i].hash))
            rows[i].split = DATASET_VALIDATION;
    return 0;
}

int dataset_hold_out(const struct config *config, const struct dataset_header *header,
                     struct dataset_row *rows, struct bl_error *err)
{
    uint64_t first = 0;
    for (uint32_t of = 0; of < header->source_count; of++) {
        const struct dataset_of *source = &header->sources[of];
        bool by_folders = source->splits.at[SPLIT_VALIDATION] != 0;
        double share = by_folders ? 0 : config->data.sources.at[of].validation;
        BL_TRY(hold_out_of(config, source, share, rows + first, err));
        first += source->sample_count;
    }
    struct dataset_hashes held_out = {0};
    int rc = header->source_count > 1 ? split_alike(header->sample_count, rows, &held_out, err) : 0;
    free(held_out.at);
    return rc;
}
