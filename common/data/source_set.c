/* common/data/source_set.c - all sources of a run as one numbering of rows. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/captions.h"
#include "common/data/source.h"

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "out of memory");
}

/* Opens one part of a source as its entry describes it. */
static int open_part(const struct config_data *data, uint32_t of, bool validation,
                     struct source **ret, struct bl_error *err)
{
    const struct config_source *entry = &data->sources.at[of];
    const struct config_caption *captions = data->captions.at + entry->caption_first;
    bl_autofree const char **columns = calloc(2 * entry->caption_count, sizeof *columns);
    bl_autofree const char **numbers = calloc(data->filters.count + 1, sizeof *numbers);
    if (!columns || !numbers)
        return fail_nomem(err);
    for (size_t i = 0; i < data->filters.count; i++)
        numbers[i] = data->filters.at[i].column;
    const struct source_options options = {
        .path = validation ? entry->validation_source : entry->source,
        .format = entry->format,
        .columns = columns,
        .column_count = caption_columns(captions, entry->caption_count, columns),
        .numbers = numbers,
        .number_count = data->filters.count,
        .image_column = entry->image_column,
        .cache = data->cache};
    int rc = source_open(&options, ret, err);
    if (rc < 0 && err && !strcmp(err->file, options.path)) { /* the source, not a line in it */
        const char *key = validation ? "validation_source" : "source";
        if (data->sources.written)
            bl_error_key(err, "data.sources[%u].%s", of, key);
        else
            bl_error_key(err, "data.%s", key);
    }
    return rc;
}

int source_set_open(const struct config_data *data, struct source_set *ret, struct bl_error *err)
{
    for (uint32_t of = 0; of < data->sources.count; of++)
        for (int validation = 0; validation < 2; validation++) {
            struct source_part *part = &ret->parts[ret->count];
            if (validation && !data->sources.at[of].validation_source)
                continue;
            BL_TRY(open_part(data, of, validation, &part->source, err));
            part->of = of;
            part->validation = validation;
            ret->count++;
        }
    return 0;
}

void source_set_release(struct source_set *set)
{
    for (uint32_t i = 0; i < set->count; i++)
        source_free(&set->parts[i].source);
    set->count = 0;
}

uint64_t source_set_rows(const struct source_set *set)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < set->count; i++)
        rows += source_count(set->parts[i].source);
    return rows;
}

const struct source_part *source_set_find(const struct source_set *set, uint64_t *row)
{
    const struct source_part *part = set->parts;
    for (; *row >= source_count(part->source); part++) {
        BL_ASSERT(part + 1 < set->parts + set->count);
        *row -= source_count(part->source);
    }
    return part;
}
