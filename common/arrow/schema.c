/* common/arrow/schema.c - columns to the format's schema and back. */
#include <stdio.h>

#include "common/arrow/parts.h"

/* Numbers of the format's union Type, and of its floating-point precisions. */
enum { TYPE_INT = 2, TYPE_FLOAT = 3, TYPE_UTF8 = 5, TYPE_LIST = 12, TYPE_FIXED_LIST = 16 };
enum { PRECISION_HALF = 0, PRECISION_SINGLE = 1 };

static const struct {
    size_t bytes;
    const char *words;
} types[] = {
#define X(name, bytes, words) {bytes, words},
    ARROW_TYPES(X)
#undef X
};

size_t arrow_type_bytes(enum arrow_type type)
{
    return types[type].bytes;
}

int64_t arrow_row_elements(const struct arrow_column *column)
{
    int64_t elements = 1;
    for (int i = 0; i < column->rank; i++)
        elements *= column->dims[i];
    return elements;
}

bool arrow_column_equal(const struct arrow_column *a, const struct arrow_column *b)
{
    bool equal =
        !strcmp(a->name, b->name) && a->type == b->type && a->rank == b->rank && a->list == b->list;
    for (int i = 0; equal && i < a->rank; i++)
        equal = a->dims[i] == b->dims[i];
    return equal;
}

void arrow_column_words(const struct arrow_column *column, char *ret, size_t size)
{
    const char *element = types[column->type].words;
    if (column->list)
        snprintf(ret, size, "list<%s>", element);
    else if (column->rank == 2)
        snprintf(ret, size, "fixed_size_list<fixed_size_list<%s>[%d]>[%d]", element,
                 column->dims[1], column->dims[0]);
    else if (column->rank == 1)
        snprintf(ret, size, "fixed_size_list<%s>[%d]", element, column->dims[0]);
    else
        snprintf(ret, size, "%s", element);
}

int arrow_levels(const struct arrow_column *column)
{
    return 1 + (column->list ? 1 : column->rank);
}

int arrow_buffers(const struct arrow_column *column)
{
    int lists = column->list ? 2 : column->rank;
    return lists + (column->type == ARROW_UTF8 ? 3 : 2);
}

/* -- writing -- */

bool arrow_add_metadata(struct bl_bytes *out, const char *const *metadata, size_t *ret)
{
    uint32_t count = 0;
    size_t first, at[PAIR_FIELDS], pair, text;
    while (metadata[2 * count])
        count++;
    if (!fb_add_offsets(out, count, ret, &first))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (!fb_add_table(out, (struct fb_field[PAIR_FIELDS]){FB_OFFSET, FB_OFFSET}, PAIR_FIELDS,
                          at, &pair))
            return false;
        fb_patch(out, first + 4 * (size_t)i, pair);
        for (int part = 0; part < PAIR_FIELDS; part++) {
            if (!fb_add_string(out, metadata[2 * i + (uint32_t)part], &text))
                return false;
            fb_patch(out, at[part], text);
        }
    }
    return true;
}

/* The table of a level's type; *ret_type is its number in the union. */
static bool add_type(struct bl_bytes *out, const struct arrow_column *column, int level,
                     uint8_t *ret_type, size_t *ret)
{
    struct fb_field fields[2] = {{0}};
    int count = 0;
    if (level + 1 < arrow_levels(column)) {
        *ret_type = column->list ? TYPE_LIST : TYPE_FIXED_LIST;
        if (!column->list)
            fields[count++] = (struct fb_field){4, (uint32_t)column->dims[level]};
    } else if (column->type == ARROW_UTF8) {
        *ret_type = TYPE_UTF8;
    } else if (column->type == ARROW_F16 || column->type == ARROW_F32) {
        *ret_type = TYPE_FLOAT;
        fields[count++] =
            (struct fb_field){2, column->type == ARROW_F16 ? PRECISION_HALF : PRECISION_SINGLE};
    } else {
        *ret_type = TYPE_INT;
        fields[count++] = (struct fb_field){4, 8 * types[column->type].bytes};
        fields[count++] = (struct fb_field){1, column->type != ARROW_U16};
    }
    return fb_add_table(out, fields, count, NULL, ret);
}

/* The chain of a column's levels; the offset at `at` leads to the first. */
static bool add_column(struct bl_bytes *out, const struct arrow_column *column, size_t at)
{
    for (int level = 0; level < arrow_levels(column); level++) {
        size_t field, name, type, children, fields_at[COLUMN_FIELDS];
        uint8_t type_type = 0;
        const struct fb_field fields[COLUMN_FIELDS] = {
            [COLUMN_NAME] = FB_OFFSET, [COLUMN_NULLABLE] = {1, 1},    [COLUMN_TYPE_TYPE] = {1, 0},
            [COLUMN_TYPE] = FB_OFFSET, [COLUMN_CHILDREN] = FB_OFFSET,
        };
        uint32_t child_count = level + 1 < arrow_levels(column);
        if (!fb_add_table(out, fields, COLUMN_FIELDS, fields_at, &field) ||
            !fb_add_string(out, level == 0 ? column->name : "item", &name) ||
            !add_type(out, column, level, &type_type, &type))
            return false;
        fb_patch(out, at, field);
        fb_patch(out, fields_at[COLUMN_NAME], name);
        fb_patch(out, fields_at[COLUMN_TYPE], type);
        out->data[fields_at[COLUMN_TYPE_TYPE]] = (char)type_type;
        if (!fb_add_offsets(out, child_count, &children, &at))
            return false;
        fb_patch(out, fields_at[COLUMN_CHILDREN], children);
    }
    return true;
}

bool arrow_add_schema(struct bl_bytes *out, const struct arrow_column *columns, int count,
                      const char *const *metadata, size_t *ret)
{
    const struct fb_field fields[SCHEMA_FIELDS] = {
        [SCHEMA_COLUMNS] = FB_OFFSET, [SCHEMA_METADATA] = {metadata ? 4 : 0, 0}};
    size_t at[SCHEMA_FIELDS], vector, first, pairs;
    if (!fb_add_table(out, fields, SCHEMA_FIELDS, at, ret) ||
        !fb_add_offsets(out, (uint32_t)count, &vector, &first))
        return false;
    fb_patch(out, at[SCHEMA_COLUMNS], vector);
    for (int i = 0; i < count; i++)
        if (!add_column(out, &columns[i], first + 4 * (size_t)i))
            return false;
    if (!metadata)
        return true;
    if (!arrow_add_metadata(out, metadata, &pairs))
        return false;
    fb_patch(out, at[SCHEMA_METADATA], pairs);
    return true;
}

/* -- reading -- */

const char *arrow_find_metadata(struct fb *fb, size_t table, int field, const char *key)
{
    uint32_t count;
    size_t first = fb_vector(fb, table, field, 4, &count);
    for (uint32_t i = 0; i < count && !fb->failed; i++) {
        size_t pair = fb_element(fb, first, i);
        const char *name = fb_text(fb, pair, PAIR_KEY);
        if (name && !strcmp(name, key))
            return fb_text(fb, pair, PAIR_VALUE);
    }
    return NULL;
}

static bool read_element_type(struct fb *fb, int64_t type_type, size_t type, enum arrow_type *ret)
{
    if (type_type == TYPE_UTF8) {
        *ret = ARROW_UTF8;
        return true;
    }
    if (type_type == TYPE_FLOAT) {
        int64_t precision = fb_whole(fb, type, 0, 2, PRECISION_HALF);
        *ret = precision == PRECISION_HALF ? ARROW_F16 : ARROW_F32;
        return precision == PRECISION_HALF || precision == PRECISION_SINGLE;
    }
    int64_t bits = fb_whole(fb, type, 0, 4, 0), is_signed = fb_whole(fb, type, 1, 1, 0);
    *ret = bits == 8 ? ARROW_I8 : bits == 16 ? ARROW_U16 : ARROW_I32;
    return type_type == TYPE_INT &&
           ((bits == 8 && is_signed) || (bits == 16 && !is_signed) || (bits == 32 && is_signed));
}

/* Goes down the chain of levels; false: it is none of ours. */
static bool read_levels(struct fb *fb, size_t field, struct arrow_column *column)
{
    for (int level = 0; level < ARROW_LEVELS_MAX; level++) {
        uint32_t children;
        int64_t type_type = fb_whole(fb, field, COLUMN_TYPE_TYPE, 1, 0);
        size_t type = fb_table(fb, field, COLUMN_TYPE),
               first = fb_vector(fb, field, COLUMN_CHILDREN, 4, &children);
        if (fb->failed || fb_table(fb, field, COLUMN_DICTIONARY))
            return false;
        bool list = type_type == TYPE_LIST, fixed = type_type == TYPE_FIXED_LIST;
        if (!list && !fixed)
            return children == 0 && read_element_type(fb, type_type, type, &column->type) &&
                   (column->type != ARROW_UTF8 || level == 0);
        if (children != 1 || column->list || (list && level > 0) || column->rank == 2)
            return false;
        column->list = list;
        if (fixed) {
            int64_t size = fb_whole(fb, type, 0, 4, 0);
            if (size < 1)
                return false;
            column->dims[column->rank++] = (int32_t)size;
        }
        field = fb_element(fb, first, 0);
    }
    return false;
}

int arrow_read_schema(struct fb *fb, size_t schema, struct arrow_column *ret, int *ret_count,
                      struct bl_error *err)
{
    uint32_t count;
    size_t first = fb_vector(fb, schema, SCHEMA_COLUMNS, 4, &count);
    if (fb_whole(fb, schema, SCHEMA_ENDIANNESS, 2, 0) != 0)
        return bl_fail(err, BL_EFORMAT, "expected little-endian values, found others");
    if (!fb->failed && (count < 1 || count > ARROW_COLUMNS_MAX))
        return bl_fail(err, BL_EFORMAT, "expected 1 to %d columns, found %u", ARROW_COLUMNS_MAX,
                       count);
    for (uint32_t i = 0; i < count && !fb->failed; i++) {
        struct arrow_column *column = &ret[i];
        size_t field = fb_element(fb, first, i);
        const char *name = fb_text(fb, field, COLUMN_NAME);
        *column = (struct arrow_column){0};
        if (!name || strlen(name) >= sizeof column->name)
            return bl_fail(err, BL_EFORMAT, "column %u: expected a name of at most %zu bytes", i,
                           sizeof column->name - 1);
        memcpy(column->name, name, strlen(name) + 1);
        if (!read_levels(fb, field, column))
            return bl_fail(err, BL_EFORMAT,
                           "column \"%s\": expected int8, uint16, int32, halffloat or float, a "
                           "list or fixed_size_list of these, or string; found another type",
                           column->name);
    }
    *ret_count = (int)count;
    return fb->failed ? bl_fail(err, BL_EFORMAT, "the schema is damaged") : 0;
}
