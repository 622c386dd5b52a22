/* coordinator/bad_samples.c - see bad_samples.h. */
#include "coordinator/bad_samples.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"

enum { DIGITS = 17 };

struct bad_samples {
    FILE *file;
    char path[4096];
    uint64_t sample_count, count;
    uint8_t listed[]; /* bit set over samples */
};

static bool mark(struct bad_samples *list, uint64_t sample)
{
    uint8_t bit = (uint8_t)(1u << sample % 8);
    bool is_new = !(list->listed[sample / 8] & bit);
    list->listed[sample / 8] |= bit;
    list->count += is_new;
    return is_new;
}

static void read_listed(struct bad_samples *list)
{
    bl_autofree char *line = NULL;
    size_t room = 0;
    rewind(list->file);
    for (ssize_t size; (size = getline(&line, &room, list->file)) > 0;) {
        json_t *o = json_loadb(line, (size_t)size, 0, NULL); /* a torn line lists nothing */
        json_t *sample = json_object_get(o, "sample");
        json_int_t number = json_integer_value(sample);
        if (json_is_integer(sample) && number >= 0 && (uint64_t)number < list->sample_count)
            mark(list, (uint64_t)number);
        json_decref(o);
    }
}

int bad_samples_open(const char *run_folder, const char *name, uint64_t sample_count,
                     struct bad_samples **ret, struct bl_error *err)
{
    bl_autofree struct bad_samples *list = calloc(1, sizeof *list + sample_count / 8 + 1);
    if (!list)
        return bl_fail(err, BL_ENOMEM, "no memory for the list of bad samples");
    list->sample_count = sample_count;
    BL_TRY(bl_path_join(list->path, sizeof list->path, run_folder, name, err));
    list->file = fopen(list->path, "a+e");
    if (!list->file) {
        bl_fail_errno(err, "cannot be written");
        return bl_error_file(err, list->path);
    }
    read_listed(list);
    *ret = bl_take(&list);
    return 0;
}

uint64_t bad_samples_count(const struct bad_samples *list)
{
    return list->count;
}

int bad_samples_add(struct bad_samples *list, uint64_t sample, const char *file_name,
                    const char *reason, struct bl_error *err)
{
    if (sample >= list->sample_count || !mark(list, sample))
        return 0;
    bl_autojson json_t *o = json_pack("{s:I, s:o, s:o}", "sample", (json_int_t)sample, "file_name",
                                      bl_json_text(file_name), "reason", bl_json_text(reason));
    bl_autofree char *line = NULL;
    BL_TRY(bl_json_line(o, DIGITS, &line, err));
    if (fprintf(list->file, "%s\n", line) >= 0 && fflush(list->file) == 0)
        return 0;
    bl_fail_errno(err, "cannot be written");
    return bl_error_file(err, list->path);
}

void bad_samples_close(struct bad_samples **list)
{
    if (*list)
        fclose((*list)->file);
    free(*list);
    *list = NULL;
}
