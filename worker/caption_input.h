/* worker/caption_input.h - which images `caption` takes: files, folders, lists. */
#pragma once

#include <stddef.h>

#include "common/error.h"

/* Zero-initialise; release when done. */
struct caption_input {
    char **paths;
    size_t count, capacity;
};

/* A file is itself, whatever its name; of a folder the images in it and below, sorted. Links are followed. */
int caption_input_add(struct caption_input *input, const char *path, struct bl_error *err);
/* Each line of the list: a path, or a JSON object with a file_name; relative to the list's folder. */
int caption_input_add_list(struct caption_input *input, const char *list, struct bl_error *err);
void caption_input_release(struct caption_input *input);
