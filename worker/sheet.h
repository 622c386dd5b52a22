/* worker/sheet.h - `caption --attention`: a PNG with each image, its caption and where chosen queries look. */
#pragma once

#include "worker/model/captioner.h"

struct sheet;

/* queries: "0,1,2,3". *ret is the caller's (sheet_free). */
int sheet_open(struct captioner *captioner, const char *queries, struct sheet **ret,
               struct bl_error *err);
void sheet_free(struct sheet **sheet);

/* The attention of a whole batch; the sheet_add calls that follow refer to its images. */
int sheet_attend(struct sheet *sheet, struct captioner *captioner, const struct micro_batch *mb,
                 struct bl_error *err);
/* Image b of the batch (pixels: the batch's) with its name and caption. */
int sheet_add(struct sheet *sheet, int64_t b, const uint8_t *pixels, const char *name,
              const char *caption, struct bl_error *err);
/* Draws what was added. */
int sheet_write(const struct sheet *sheet, const char *path, struct bl_error *err);
