/* loader/inspect_page.h - `blipren-loader inspect --html OUT`: one page for a browser that needs no other file and no network: what each
 * rule keeps and drops, with thumbnails, lengths, and samples token by token. */
#pragma once

#include "common/config/config.h"
#include "common/data/captions.h"
#include "common/data/dataset.h"
#include "common/error.h"
#include "common/tokenizer/tokenizer.h"

/* All borrowed. */
struct inspected {
    const struct config *config;
    const struct dataset *dataset;
    const struct tokenizer *tokenizer;
    const struct caption_rules *rules;
};

/* Writes the page, whole or not at all: a few megabytes at most, however large the data set is. Texts of the data are shown as texts,
 * whatever they hold. Images that cannot be read have no thumbnail. */
int inspect_page_write(const struct inspected *inspected, const char *path, struct bl_error *err);
