/* tests/fuzz/arrow_fuzz.c - the input is an Arrow file; every value of every batch is read. */
#include <stdlib.h>
#include <string.h>

#include "common/arrow/arrow.h"
#include "tests/fuzz/fuzz.h"

static void touch_values(const struct arrow_column *column, struct arrow_values values,
                         int64_t rows)
{
    size_t elements = (size_t)rows * (size_t)arrow_row_elements(column);
    if (values.offsets) {
        fuzz_touch(values.offsets, ((size_t)rows + 1) * sizeof *values.offsets);
        elements = (size_t)values.offsets[rows];
    }
    fuzz_touch(values.data, elements * arrow_type_bytes(column->type));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arrow *a = NULL;
    struct bl_error err = {0};
    char words[256];
    void *aligned = malloc(size + 1); /* the input itself need not be */
    if (!aligned)
        return 0;
    memcpy(aligned, data, size);
    if (arrow_parse(aligned, size, "fuzz", &a, &err) == 0) {
        const char *text = arrow_metadata(a, "key");
        fuzz_touch(text, text ? strlen(text) : 0);
        for (int i = 0; i < arrow_column_count(a); i++) {
            const struct arrow_column *column = arrow_column_at(a, i);
            arrow_column_words(column, words, sizeof words);
            fuzz_touch(words, strlen(words));
            if (arrow_column_find(a, column->name) < 0)
                __builtin_trap();
            for (int batch = 0; batch < arrow_batch_count(a); batch++)
                touch_values(column, arrow_batch_values(a, batch, i), arrow_batch_rows(a, batch));
        }
        arrow_verify(a, &err);
    }
    fuzz_touch(&err, sizeof err);
    arrow_free(&a);
    free(aligned);
    return 0;
}
