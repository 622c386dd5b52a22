/* common/data/dataset_check.c - opening a dataset.index: every offset in it is checked before anything is read. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/dataset_format.h"
#include "common/file.h"
#include "common/hash.h"

static int fail(struct bl_error *err, const char *what)
{
    bl_fail(err, BL_EFORMAT, "the dataset index is damaged: %s", what);
    return bl_error_remedy(err, "remove it; it will be made again");
}

/* Takes a section of count elements off the front; NULL: it is not there. */
static const void *take(const uint8_t **at, size_t *left, uint64_t count, size_t element)
{
    size_t bytes;
    if (!bl_mul(count, element, &bytes) || bytes > *left)
        return NULL;
    const void *section = *at;
    *at += bytes;
    *left -= bytes;
    return section;
}

/* Points at the sections; they must fill the file. */
static int check_sections(struct dataset *d, const uint8_t *data, size_t size, struct bl_error *err)
{
    const struct dataset_header *h = (const void *)data;
    if (size < sizeof *h || memcmp(h->magic, DATASET_MAGIC, sizeof h->magic))
        return fail(err, "it does not begin with " DATASET_MAGIC);
    if (h->version != DATASET_VERSION || h->header_bytes != sizeof *h)
        return fail(err, "another version of this program wrote it");
    d->header = h;
    const uint8_t *at = data + sizeof *h;
    size_t left = size - sizeof *h;
    if (!(d->rows = take(&at, &left, h->sample_count, sizeof *d->rows)) ||
        !(d->captions = take(&at, &left, h->caption_count, sizeof *d->captions)) ||
        !(d->ids[0] = take(&at, &left, h->split_count[0], sizeof *d->ids[0])) ||
        !(d->ids[1] = take(&at, &left, h->split_count[1], sizeof *d->ids[1])) ||
        !(d->lengths = take(&at, &left, h->length_count, sizeof *d->lengths)) ||
        !(d->notes = take(&at, &left, h->example_count, sizeof *d->notes)) ||
        !(d->text = take(&at, &left, h->text_bytes, 1)) || left)
        return fail(err, "its length does not match its header");
    uint8_t digest[32];
    const uint8_t *covered = h->made_from;
    bl_sha256(covered, (size_t)(data + size - covered), digest);
    if (memcmp(digest, h->digest, sizeof digest))
        return fail(err, "its checksum is wrong");
    return 0;
}

/* A text of this size, NUL behind it. */
static bool text_fits(const struct dataset *d, uint64_t at, uint64_t size)
{
    return at < d->header->text_bytes && size < d->header->text_bytes - at && !d->text[at + size];
}

static bool string_fits(const struct dataset *d, uint64_t at)
{
    return at < d->header->text_bytes && memchr(d->text + at, 0, d->header->text_bytes - at);
}

static bool location_fits(const struct dataset *d, uint64_t at)
{
    struct location location;
    return string_fits(d, at) && location_parse(d->text + at, &location, NULL) == 0;
}

static int check_rows(const struct dataset *d, struct bl_error *err)
{
    const struct dataset_header *h = d->header;
    uint64_t next = 0;
    for (uint64_t i = 0; i < h->sample_count; i++) {
        const struct dataset_row *row = &d->rows[i];
        if (row->first_caption != next || !row->caption_count ||
            row->caption_count > h->caption_count - next || row->split >= DATASET_SPLIT_COUNT ||
            !location_fits(d, row->location))
            return fail(err, "a sample is wrong");
        next += row->caption_count;
    }
    if (next != h->caption_count)
        return fail(err, "captions belong to no sample");
    for (uint64_t i = 0; i < h->caption_count; i++) {
        const struct dataset_text *caption = &d->captions[i];
        if (!text_fits(d, caption->text, caption->size) ||
            !text_fits(d, caption->trace, caption->trace_size) ||
            caption->column >= BL_CONFIG_LIST_MAX || caption->tokens >= h->length_count)
            return fail(err, "a caption is wrong");
    }
    return 0;
}

/* Each split's ids rise and name samples of that split; together they are all samples. */
static int check_splits(const struct dataset *d, struct bl_error *err)
{
    const struct dataset_header *h = d->header;
    if (h->split_count[0] > h->sample_count ||
        h->split_count[1] != h->sample_count - h->split_count[0])
        return fail(err, "its splits are not all samples");
    for (uint32_t split = 0; split < DATASET_SPLIT_COUNT; split++)
        for (uint64_t i = 0; i < h->split_count[split]; i++) {
            uint64_t id = d->ids[split][i];
            if (id >= h->sample_count || d->rows[id].split != split ||
                (i && id <= d->ids[split][i - 1]))
                return fail(err, "a split names a wrong sample");
        }
    return 0;
}

/* Sources follow each other over all samples. */
static int check_sources(const struct dataset *d, struct bl_error *err)
{
    const struct dataset_header *h = d->header;
    uint64_t next = 0;
    if (h->source_count < 1 || h->source_count > BL_SOURCES_MAX)
        return fail(err, "its number of sources is wrong");
    for (uint64_t of = 0; of < h->source_count; of++) {
        const struct dataset_of *source = &h->sources[of];
        uint64_t split_count[DATASET_SPLIT_COUNT] = {0};
        if (source->sample_count > h->sample_count - next)
            return fail(err, "its sources have more samples than there are");
        for (uint64_t i = 0; i < source->sample_count; i++)
            split_count[d->rows[next + i].split]++;
        if (memcmp(split_count, source->split_count, sizeof split_count))
            return fail(err, "the splits of a source are wrong");
        next += source->sample_count;
    }
    return next == h->sample_count ? 0 : fail(err, "samples belong to no source");
}

static int check_notes(const struct dataset *d, struct bl_error *err)
{
    for (uint64_t i = 0; i < d->header->example_count; i++) {
        const struct dataset_note *note = &d->notes[i];
        uint32_t count = note->is_caption ? CAPTION_VERDICT_COUNT : DATASET_VERDICT_COUNT;
        bool has_image = string_fits(d, note->location) && d->text[note->location];
        if (note->verdict >= count || note->source >= BL_SOURCES_MAX ||
            !string_fits(d, note->text) || !string_fits(d, note->location) ||
            (has_image && !location_fits(d, note->location)) ||
            (note->rule >= BL_CONFIG_LIST_MAX && note->rule != FILTERS_NONE))
            return fail(err, "an example is wrong");
    }
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++) {
        uint64_t at = d->header->passed_names[kind];
        for (uint64_t i = 0; i < d->header->passed_named[kind]; i++, at += strlen(d->text + at) + 1)
            if (i >= SOURCE_PASSED_NAMED * BL_SOURCES_MAX || !string_fits(d, at))
                return fail(err, "what was passed over is wrong");
    }
    return d->header->example_count > UINT32_MAX ? fail(err, "too many examples") : 0;
}

int dataset_check(struct dataset *d, const void *data, size_t size, struct bl_error *err)
{
    if ((uintptr_t)data % 8)
        return fail(err, "it is not aligned in memory");
    BL_TRY(check_sections(d, data, size, err));
    BL_TRY(check_rows(d, err));
    BL_TRY(check_splits(d, err));
    BL_TRY(check_sources(d, err));
    return check_notes(d, err);
}

int dataset_parse(const void *data, size_t size, const char *name, struct dataset **ret,
                  struct bl_error *err)
{
    bl_auto(dataset) struct dataset *d = calloc(1, sizeof *d);
    if (!d)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    if (dataset_check(d, data, size, err) < 0)
        return bl_error_file(err, name);
    *ret = bl_take(&d);
    return 0;
}

int dataset_open(const char *path, struct dataset **ret, struct bl_error *err)
{
    bl_auto(dataset) struct dataset *d = calloc(1, sizeof *d);
    if (!d)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    BL_TRY(bl_file_read(path, SIZE_MAX - 1, &d->bytes.data, &d->bytes.size, err));
    if (dataset_check(d, d->bytes.data, d->bytes.size, err) < 0)
        return bl_error_file(err, path);
    *ret = bl_take(&d);
    return 0;
}
