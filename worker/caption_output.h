/* worker/caption_output.h - where `caption` puts its lines of JSON: standard output, or a file that a later call continues. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "common/error.h"

struct caption_output {
    FILE *file;       /* stdout, or the file */
    const char *path; /* NULL: stdout */
    const char *
        settings; /* in each line of a file: what the captions depend on besides the image; borrowed */
    json_t *done; /* file_names that the file has captions of, as keys */
    /* progress */
    size_t total, finished;
    double began_s, shown_s;
};

/* path NULL: standard output. A file's lines without a caption, and one that a crash cut short, are removed, so that their
 * images are tried again. -BL_EUSAGE: it was made with other settings. caption_output_close in any case. */
int caption_output_open(struct caption_output *output, const char *path, const char *settings,
                        struct bl_error *err);
/* Flushes; -BL_EIO: not all lines are written. */
int caption_output_close(struct caption_output *output, struct bl_error *err);

/* Whether the file has a caption of this image. */
bool caption_output_has(const struct caption_output *output, const char *file_name);
/* Writes the object, which is taken over, as a line. */
int caption_output_put(struct caption_output *output, json_t *object, struct bl_error *err);
/* So many images more are finished: shows how far it is, unless captions are printed to a terminal. */
void caption_output_progress(struct caption_output *output, size_t images);
