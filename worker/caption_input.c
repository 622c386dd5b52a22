/* worker/caption_input.c - see caption_input.h. */
#include "worker/caption_input.h"

#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/data/source.h"
#include "common/file.h"
#include "common/json.h"
#include "common/limits.h"

void caption_input_release(struct caption_input *input)
{
    for (size_t i = 0; i < input->count; i++)
        free(input->paths[i]);
    free(input->paths);
    *input = (struct caption_input){0};
}

static int add(struct caption_input *input, const char *path, struct bl_error *err)
{
    char *copy = strdup(path);
    if (!copy ||
        !bl_grow(&input->paths, &input->capacity, input->count + 1, sizeof *input->paths)) {
        free(copy);
        return bl_fail(err, BL_ENOMEM, "no memory for %zu paths", input->count + 1);
    }
    input->paths[input->count++] = copy;
    return 0;
}

static int compare_names(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void walk_end(FTS **walk)
{
    if (*walk)
        fts_close(*walk);
}

static int add_folder(struct caption_input *input, const char *folder, struct bl_error *err)
{
    char *const roots[] = {(char *)(uintptr_t)folder, NULL};
    const size_t before = input->count;
    __attribute__((cleanup(walk_end))) FTS *walk =
        fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, compare_names);
    for (const FTSENT *entry; walk && (entry = fts_read(walk));) {
        if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR) {
            errno = entry->fts_errno;
            bl_fail_errno(err, "cannot be listed");
            return bl_error_file(err, entry->fts_path);
        }
        if (entry->fts_info == FTS_F && source_is_image(entry->fts_path))
            BL_TRY(add(input, entry->fts_path, err));
    }
    if (!walk || errno) {
        bl_fail_errno(err, "the folder cannot be listed");
        return bl_error_file(err, folder);
    }
    if (input->count > before)
        return 0;
    bl_fail(err, BL_EDATA, "expected images in the folder, found none");
    bl_error_remedy(err, "check the path");
    return bl_error_file(err, folder);
}

int caption_input_add(struct caption_input *input, const char *path, struct bl_error *err)
{
    return bl_path_is_folder(path) ? add_folder(input, path, err) : add(input, path, err);
}

static int add_line(struct caption_input *input, const char *folder, const char *text, size_t size,
                    struct bl_error *err)
{
    bl_autojson json_t *object = NULL;
    bl_autofree char *line = strndup(text, size);
    const char *name = line;
    char path[4096];
    if (!line)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    if (*line == '{') {
        BL_TRY(bl_json_parse(line, size, &object, err));
        name = json_string_value(json_object_get(object, "file_name"));
        if (!name)
            return bl_fail(err, BL_EFORMAT, "expected the text file_name");
    }
    if (*name == '/')
        return add(input, name, err);
    BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
    return add(input, path, err);
}

int caption_input_add_list(struct caption_input *input, const char *list, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    bl_autofree char *folder = bl_path_parent(list);
    size_t size;
    int number = 0;
    if (!folder)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    BL_TRY(bl_file_read(list, BL_LIST_BYTES_MAX, &text, &size, err));
    for (char *at = text, *next; *at; at = next) {
        size_t length = strcspn(at, "\n");
        next = at + length + (at[length] == '\n');
        number++;
        length -= length && at[length - 1] == '\r';
        if (!length)
            continue;
        if (add_line(input, folder, at, length, err) < 0) {
            bl_error_key(err, "line %d", number);
            bl_error_remedy(err, "write a path, or {\"file_name\": \"…\"}, on each line");
            return bl_error_file(err, list);
        }
    }
    return 0;
}
