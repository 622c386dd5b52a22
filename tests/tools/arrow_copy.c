/* tests/tools/arrow_copy.c - `arrow_copy IN OUT [KEY...]`: reads an Arrow file and writes its columns, batches and the named
 * metadata as a new one, all by common/arrow. For tests/evidence/arrow. */
#include <stdio.h>

#include "common/arrow/arrow.h"
#include "common/cleanup.h"

#define KEYS_MAX 16

static int copy(int argc, char **argv, struct bl_error *err)
{
    bl_auto(arrow) struct arrow *in = NULL;
    bl_auto(arrow_writer) struct arrow_writer *out = NULL;
    struct arrow_column columns[ARROW_COLUMNS_MAX];
    struct arrow_values values[ARROW_COLUMNS_MAX];
    const char *metadata[2 * KEYS_MAX + 1] = {NULL};
    BL_TRY(arrow_open(argv[1], &in, err));
    BL_TRY(arrow_verify(in, err));
    for (int i = 3, used = 0; i < argc && i < 3 + KEYS_MAX; i++) {
        metadata[used] = argv[i];
        metadata[used + 1] = arrow_metadata(in, argv[i]);
        used += metadata[used + 1] ? 2 : 0;
        metadata[used] = NULL;
    }
    int count = arrow_column_count(in);
    for (int i = 0; i < count; i++)
        columns[i] = *arrow_column_at(in, i);
    BL_TRY(arrow_writer_open(argv[2], columns, count, metadata, &out, err));
    for (int batch = 0; batch < arrow_batch_count(in); batch++) {
        for (int i = 0; i < count; i++)
            values[i] = arrow_batch_values(in, batch, i);
        BL_TRY(arrow_writer_batch(out, arrow_batch_rows(in, batch), values, err));
    }
    return arrow_writer_commit(out, err);
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    char line[1600];
    if (argc < 3) {
        fprintf(stderr, "usage: arrow_copy IN OUT [KEY...]\n");
        return 2;
    }
    if (copy(argc, argv, &err) == 0)
        return 0;
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "%s\n", line);
    return bl_error_exit_code(err.code);
}
