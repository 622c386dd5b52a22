/* common/parquet/schema.c - the schema, a tree written in depth-first order, as a list of columns.
 *
 * A node that is optional or repeated adds 1 to the definition level, a repeated one also to the repetition level. */
#include <stdio.h>
#include <string.h>

#include "common/array.h"
#include "common/limits.h"
#include "common/parquet/parquet_parts.h"

enum repetition { REQUIRED, OPTIONAL, REPEATED };
enum converted_type { CONVERTED_LIST = 3, CONVERTED_UINT_8 = 11, CONVERTED_UINT_64 = 14 };

struct element {
    int32_t type, repetition, child_count, converted_type;
    const uint8_t *name;
    size_t name_size;
    bool is_list, is_unsigned;
    char logical[24];
};

/* What a leaf takes from the nodes above it. */
struct above {
    char path[BL_PARQUET_PATH_MAX];
    size_t path_size;
    int definition, repetition, list_definition;
    int unnamed; /* nodes below that a list's notation needs and the path leaves out */
    int depth;
};

static const char *const type_names[] = {"BOOLEAN", "INT32",  "INT64",      "INT96",
                                         "FLOAT",   "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"};
#define TYPE_COUNT ((int)(sizeof type_names / sizeof *type_names))
static const char *const converted_names[] = {"UTF8",
                                              "MAP",
                                              "MAP_KEY_VALUE",
                                              "LIST",
                                              "ENUM",
                                              "DECIMAL",
                                              "DATE",
                                              "TIME_MILLIS",
                                              "TIME_MICROS",
                                              "TIMESTAMP_MILLIS",
                                              "TIMESTAMP_MICROS",
                                              "UINT_8",
                                              "UINT_16",
                                              "UINT_32",
                                              "UINT_64",
                                              "INT_8",
                                              "INT_16",
                                              "INT_32",
                                              "INT_64",
                                              "JSON",
                                              "BSON",
                                              "INTERVAL"};
#define CONVERTED_COUNT ((int)(sizeof converted_names / sizeof *converted_names))
/* Fields of the union LogicalType. */
static const char *const logical_names[] = {
    [1] = "STRING", [2] = "MAP",   [3] = "LIST",      [4] = "ENUM",     [5] = "DECIMAL",
    [6] = "DATE",   [7] = "TIME",  [8] = "TIMESTAMP", [10] = "INTEGER", [11] = "UNKNOWN",
    [12] = "JSON",  [13] = "BSON", [14] = "UUID",     [15] = "FLOAT16"};
#define LOGICAL_COUNT ((int)(sizeof logical_names / sizeof *logical_names))
enum { LOGICAL_LIST = 3, LOGICAL_INTEGER = 10 };

static void read_integer_type(struct thrift *t, struct element *e)
{
    bool is_signed = true;
    struct thrift_struct s = thrift_begin(t, "IntType");
    while (thrift_next(t, &s))
        if (s.id == 2)
            thrift_bool(t, &s, &is_signed);
        else
            thrift_skip(t, &s);
    e->is_unsigned = !is_signed;
}

static void read_logical_type(struct thrift *t, struct element *e)
{
    struct thrift_struct s = thrift_begin(t, "LogicalType");
    while (thrift_next(t, &s)) {
        if (s.id > 0 && s.id < LOGICAL_COUNT && logical_names[s.id])
            snprintf(e->logical, sizeof e->logical, "%s", logical_names[s.id]);
        e->is_list |= s.id == LOGICAL_LIST;
        thrift_nested(t, &s);
        if (s.id == LOGICAL_INTEGER)
            read_integer_type(t, e);
        else
            thrift_skip(t, &s);
    }
}

static void take_converted_type(struct element *e)
{
    if (e->converted_type < 0 || e->converted_type >= CONVERTED_COUNT)
        return;
    if (!e->logical[0])
        snprintf(e->logical, sizeof e->logical, "%s", converted_names[e->converted_type]);
    e->is_list |= e->converted_type == CONVERTED_LIST;
    e->is_unsigned |=
        e->converted_type >= CONVERTED_UINT_8 && e->converted_type <= CONVERTED_UINT_64;
}

static struct element read_element(struct thrift *t)
{
    struct element e = {
        .type = -1, .repetition = REQUIRED, .converted_type = -1, .name = (const uint8_t *)""};
    struct thrift_struct s = thrift_begin(t, "SchemaElement");
    while (thrift_next(t, &s))
        switch (s.id) {
        case 1:
            thrift_i32(t, &s, &e.type);
            break;
        case 3:
            thrift_i32(t, &s, &e.repetition);
            break;
        case 4:
            thrift_binary(t, &s, &e.name, &e.name_size);
            break;
        case 5:
            thrift_i32(t, &s, &e.child_count);
            break;
        case 6:
            thrift_i32(t, &s, &e.converted_type);
            break;
        case 10:
            thrift_nested(t, &s);
            read_logical_type(t, &e);
            break;
        default:
            thrift_skip(t, &s);
        }
    thrift_require(t, &s, 4, "name");
    if (e.repetition < REQUIRED || e.repetition > REPEATED)
        thrift_fail(t, "SchemaElement: expected a repetition type of 0 to 2, found %d",
                    e.repetition);
    if (e.child_count < 0)
        thrift_fail(t, "SchemaElement: expected at least 0 children, found %d", e.child_count);
    if (!e.child_count && s.seen >> 1 & 1 && (e.type < 0 || e.type >= TYPE_COUNT))
        thrift_fail(t, "SchemaElement: expected a type of 0 to 7, found %d", e.type);
    take_converted_type(&e);
    return e;
}

static const char *why_unreadable(const struct parquet_column *c)
{
    if (c->physical_type == TYPE_INT96)
        return "columns of type INT96 are not read";
    if (c->physical_type == TYPE_FIXED_LEN_BYTE_ARRAY)
        return "columns of type FIXED_LEN_BYTE_ARRAY are not read";
    if (c->repetition_max > 1)
        return "lists inside lists are not read";
    return NULL;
}

static void add_column(struct thrift *t, const struct element *e, const struct above *above,
                       struct parquet *file)
{
    if (t->cursor.failed ||
        !thrift_grow(t, &file->columns, &file->column_capacity, file->column_count))
        return;
    struct parquet_column c = {.physical_type = e->type,
                               .definition_max = above->definition,
                               .repetition_max = above->repetition,
                               .list_definition = above->list_definition,
                               .list = above->repetition > 0,
                               .is_unsigned = e->is_unsigned};
    snprintf(c.type, sizeof c.type, "%s%s%s", type_names[e->type], e->logical[0] ? " " : "",
             e->logical);
    c.kind = e->type == TYPE_BYTE_ARRAY                        ? PARQUET_BYTES
             : e->type == TYPE_FLOAT || e->type == TYPE_DOUBLE ? PARQUET_REAL
                                                               : PARQUET_INTEGER;
    c.unreadable = why_unreadable(&c);
    c.path = strdup(above->path);
    if (!c.path)
        thrift_fail(t, "out of memory");
    else
        file->columns[file->column_count++] = c;
}

static void add_name(struct thrift *t, struct above *above, const struct element *e)
{
    size_t dot = above->path_size > 0;
    if (e->name_size >= sizeof above->path - above->path_size - dot) {
        thrift_fail(t, "SchemaElement: expected paths shorter than %d bytes", BL_PARQUET_PATH_MAX);
        return;
    }
    if (dot)
        above->path[above->path_size++] = '.';
    memcpy(above->path + above->path_size, e->name, e->name_size);
    above->path_size += e->name_size;
    above->path[above->path_size] = 0;
}

/* Reads a node and what is below it; *left counts the elements of the list down. */
static void read_node(struct thrift *t, const struct above *above, size_t *left,
                      struct parquet *file)
{
    if (*left == 0)
        thrift_fail(t, "FileMetaData: the schema has fewer elements than its nodes have children");
    if (t->cursor.failed)
        return;
    --*left;
    struct element e = read_element(t);
    if (t->cursor.failed)
        return;
    struct above mine = *above;
    if (mine.unnamed > 0)
        mine.unnamed--;
    else
        add_name(t, &mine, &e);
    mine.definition += e.repetition != REQUIRED;
    if (e.repetition == REPEATED) {
        mine.repetition++;
        mine.list_definition = mine.definition;
        /* list<T> is (group LIST (repeated group (T))), in older files (group LIST (repeated T)). */
        if (e.child_count != 1)
            mine.unnamed = 0;
    } else if (e.is_list && e.child_count == 1) {
        mine.unnamed = 2;
    }
    if (++mine.depth > BL_PARQUET_DEPTH_MAX)
        thrift_fail(t, "SchemaElement: expected at most %d nested nodes", BL_PARQUET_DEPTH_MAX);
    if (e.child_count == 0 && e.type >= 0)
        add_column(t, &e, &mine, file);
    for (int32_t i = 0; i < e.child_count && !t->cursor.failed; i++)
        read_node(t, &mine, left, file);
}

void schema_read(struct thrift *t, const struct thrift_struct *s, struct parquet *file)
{
    size_t left = thrift_structs(t, s);
    if (left == 0)
        thrift_fail(t, "FileMetaData: expected a schema of at least 1 element");
    if (t->cursor.failed)
        return;
    struct element root = read_element(t);
    left--;
    struct above above = {0};
    for (int32_t i = 0; i < root.child_count && !t->cursor.failed; i++)
        read_node(t, &above, &left, file);
    if (left > 0)
        thrift_fail(t, "FileMetaData: the schema has %zu elements that no node has as children",
                    left);
}
