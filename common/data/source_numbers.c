/* common/data/source_numbers.c - the columns of numbers that data.filters looks at, of samples in memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/data/source_build.h"
#include "common/hash.h"

int source_numbers_open(struct source *source, struct bl_error *err)
{
    source->number_seen = calloc(source->options->number_count + 1, sizeof *source->number_seen);
    source->number_count = source->options->number_count;
    return source->number_seen ? 0 : bl_fail(err, BL_ENOMEM, "out of memory");
}

void source_numbers_release(struct source *source)
{
    free(source->number_seen);
    free(source->numbers);
}

void source_saw_number(struct source *source, size_t i)
{
    source->number_seen[i] = true;
}

int source_check_numbers(const struct source *source, struct bl_error *err)
{
    for (size_t i = 0; i < source->number_count; i++) {
        if (source->number_seen[i])
            continue;
        bl_fail(err, BL_ECONFIG, "no sample has the column \"%.60s\"", source->options->numbers[i]);
        bl_error_key(err, "data.filters[%zu]", i);
        bl_error_remedy(err, "name a column of numbers in the metadata or the Parquet file");
        return bl_error_file(err, source->folder);
    }
    return 0;
}

/* Numbers of all samples so far; those not set are NAN. */
static bool fill(struct source *source)
{
    size_t count = source->row_count * source->number_count;
    if (!bl_grow(&source->numbers, &source->number_capacity, count, sizeof *source->numbers))
        return false;
    while (source->numbers_filled < count)
        source->numbers[source->numbers_filled++] = NAN;
    return true;
}

int source_add_number(struct source *source, size_t i, double value, struct bl_error *err)
{
    BL_ASSERT_CMP(source->row_count, >, 0);
    if (!fill(source))
        return bl_fail(err, BL_ENOMEM, "out of memory");
    source->numbers[(source->row_count - 1) * source->number_count + i] = value;
    return 0;
}

/* NaN is written as an empty list (blank_numbers). */
int source_add_json_numbers(struct source *source, const json_t *object, struct bl_error *err)
{
    for (size_t i = 0; i < source->number_count; i++) {
        const char *name = source->options->numbers[i];
        const json_t *value = json_object_get(object, name);
        if (!value)
            continue;
        source_saw_number(source, i);
        if (json_is_null(value) || (json_is_array(value) && !json_array_size(value)))
            continue;
        if (!json_is_number(value) && !json_is_boolean(value)) {
            bl_json_fail(value, "a number", err);
            return bl_error_key(err, "%.100s", name);
        }
        BL_TRY(source_add_number(
            source, i, json_is_boolean(value) ? json_is_true(value) : json_number_value(value),
            err));
    }
    return 0;
}

int source_add_text_number(struct source *source, size_t i, const char *text, struct bl_error *err)
{
    char *end;
    if (!text[strspn(text, " \t")])
        return 0;
    double value = strtod(text, &end);
    if (end == text || end[strspn(end, " \t")]) {
        bl_fail(err, BL_EFORMAT, "expected a number, found \"%.60s\"", text);
        return bl_error_key(err, "%.100s", source->options->numbers[i]);
    }
    return source_add_number(source, i, value, err);
}

const double *source_numbers(const struct source *source, uint64_t id)
{
    static const double none[BL_CONFIG_LIST_MAX] = {[0 ... BL_CONFIG_LIST_MAX - 1] = NAN};
    const size_t count = source->number_count, first = (size_t)id * count;
    return count && first + count <= source->numbers_filled ? source->numbers + first : none;
}

void source_numbers_digest(const struct source *source, struct bl_sha256 *hash)
{
    for (size_t i = 0; i < source->number_count; i++)
        bl_sha256_add(hash, source->options->numbers[i], strlen(source->options->numbers[i]) + 1);
    for (uint64_t id = 0; source->number_count && id < source->row_count; id++)
        bl_sha256_add(hash, source_numbers(source, id), source->number_count * sizeof(double));
}
