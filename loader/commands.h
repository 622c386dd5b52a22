/* loader/commands.h - the loader's subcommands that show what training is fed with. Each prints to
 * `out`; inspect has a header of its own. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/error.h"

struct tokenize_options {
    const char *model; /* folder with tokenizer.json */
    bool decode;       /* lines of ids to text, instead of lines of text to ids */
    bool special; /* with the ids that the tokenizer adds (BOS); decoding: show special tokens */
    bool tokens;  /* each id with its token, one a line, and an empty line after each text */
};
/* Each line of `in` is a text (or ids between spaces), without its newline. -BL_EFORMAT names the
 * line that is no list of ids. */
int tokenize_run(const struct tokenize_options *options, FILE *in, FILE *out, struct bl_error *err);

struct preprocess_options {
    const char *model; /* vision model's folder */
    const char *into;  /* folder for NAME.png, or NULL */
    bool json;         /* an object a line, with the columns' names as keys */
    int64_t max_pixels;
};
/* Decodes and resizes each image as training does. A line for each: file_name, width and height (upright), side of the
 * square, SHA-256 of its (side, side, 3) u8 RGB bytes, and with `into` the PNG's path; between tabs. Images of one name in
 * several folders become NAME.png, NAME-2.png and so on. What cannot be read gets a line with its error and, at the end,
 * -BL_EDATA. */
int preprocess_run(const struct preprocess_options *options, char *const *images, int count,
                   FILE *out, struct bl_error *err);
