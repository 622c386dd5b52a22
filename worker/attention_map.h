/* worker/attention_map.h - `caption --attention`: a PNG with each image, its caption and where chosen queries look. */
#pragma once

#include "worker/model/captioner.h"

struct attention_map;

/* queries: "0,1,2,3". *ret is the caller's (attention_map_free). */
int attention_map_open(struct captioner *captioner, const char *queries, struct attention_map **ret,
                       struct bl_error *err);
void attention_map_free(struct attention_map **map);

/* The attention of a whole batch; the attention_map_add calls that follow refer to its images. */
int attention_map_attend(struct attention_map *map, struct captioner *captioner,
                         const struct micro_batch *mb, struct bl_error *err);
/* Image b of the batch (pixels: the batch's) with its name and caption. */
int attention_map_add(struct attention_map *map, int64_t b, const uint8_t *pixels, const char *name,
                      const char *caption, struct bl_error *err);
/* Draws what was added. */
int attention_map_write(const struct attention_map *map, const char *path, struct bl_error *err);
