/* worker/attention_map.c - see map.h. One row an image: the image, the chosen queries' attention over it, the caption beside. */
#include "worker/attention_map.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/picture/picture.h"

#define QUERIES_MAX 16
#define THUMB 112 /* pixels of one picture of a row */
#define GAP 8
#define TEXT_WIDTH 380
#define TEXT_SCALE 1.4
#define HEAD 28
/* A PNG's side is bounded; what does not fit is left out, with a warning. */
#define ROWS_MAX 400

struct row {
    uint8_t *pixels; /* (side, side, 3) */
    float *maps;     /* (queries, grid, grid) */
    char *name, *caption;
};

struct attention_map {
    int64_t side, grid, K;
    int query_count;
    int64_t queries[QUERIES_MAX];
    float *probs; /* (B, K, grid, grid) of the batch at hand */
    int row_count, left_out;
    struct row rows[ROWS_MAX];
};

static int parse_queries(struct attention_map *s, const char *text, struct bl_error *err)
{
    for (const char *at = text; s->query_count < QUERIES_MAX; at++) {
        char *end;
        long q = strtol(at, &end, 10);
        if (end == at || q < 0 || q >= s->K || (*end && *end != ','))
            break;
        s->queries[s->query_count++] = q;
        at = end;
        if (!*end)
            return 0;
    }
    bl_fail(err, BL_EUSAGE,
            "expected at most %d numbers from 0 to %lld like 0,1,2,3, found \"%.50s\"", QUERIES_MAX,
            (long long)s->K - 1, text);
    return bl_error_key(err, "--queries");
}

int attention_map_open(struct captioner *captioner, const char *queries, struct attention_map **ret,
                       struct bl_error *err)
{
    bl_auto(attention_map) struct attention_map *s = calloc(1, sizeof *s);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for a map");
    const struct captioner_params *params = captioner_params(captioner);
    for (int64_t i = 0; i < params->tensors; i++)
        if (!strcmp(params->at[i].name, "query"))
            s->K = params->at[i].dims[0];
    s->side = captioner_vision(captioner)->image_size;
    s->grid = captioner_vision(captioner)->grid;
    BL_TRY(parse_queries(s, queries, err));
    *ret = bl_take(&s);
    return 0;
}

void attention_map_free(struct attention_map **map)
{
    if (!*map)
        return;
    for (int i = 0; i < (*map)->row_count; i++) {
        struct row *row = &(*map)->rows[i];
        free(row->pixels);
        free(row->maps);
        free(row->name);
        free(row->caption);
    }
    free((*map)->probs);
    free(*map);
    *map = NULL;
}

int attention_map_attend(struct attention_map *s, struct captioner *captioner,
                         const struct micro_batch *mb, struct bl_error *err)
{
    free(s->probs);
    s->probs = calloc((size_t)(mb->B * s->K * s->grid * s->grid), sizeof *s->probs);
    if (!s->probs)
        return bl_fail(err, BL_ENOMEM, "no memory for attention maps");
    return captioner_attention(captioner, mb, s->probs, err);
}

int attention_map_add(struct attention_map *s, int64_t b, const uint8_t *pixels, const char *name,
                      const char *caption, struct bl_error *err)
{
    if (s->row_count == ROWS_MAX) {
        s->left_out++;
        return 0;
    }
    size_t image = (size_t)(s->side * s->side * 3), map = (size_t)(s->grid * s->grid);
    struct row *row = &s->rows[s->row_count++];
    *row = (struct row){.pixels = malloc(image),
                        .maps = malloc((size_t)s->query_count * map * sizeof(float)),
                        .name = strdup(name),
                        .caption = strdup(caption)};
    if (!row->pixels || !row->maps || !row->name || !row->caption)
        return bl_fail(err, BL_ENOMEM, "no memory for a row of the map");
    memcpy(row->pixels, pixels + (size_t)b * image, image);
    for (int q = 0; q < s->query_count; q++)
        memcpy(row->maps + (size_t)q * map, s->probs + (size_t)(b * s->K + s->queries[q]) * map,
               map * sizeof(float));
    return 0;
}

static void draw_row(struct picture *p, const struct attention_map *s, const struct row *row,
                     int64_t y)
{
    size_t map = (size_t)(s->grid * s->grid);
    struct box box = {GAP, y, THUMB, THUMB};
    picture_blit(p, box, row->pixels, s->side, s->side);
    for (int q = 0; q < s->query_count; q++) {
        const float *values = row->maps + (size_t)q * map;
        float low = INFINITY, high = -INFINITY;
        for (size_t i = 0; i < map; i++) {
            low = fminf(low, values[i]);
            high = fmaxf(high, values[i]);
        }
        box.x += THUMB + GAP;
        picture_blit(p, box, row->pixels, s->side, s->side);
        picture_heat(p, box, values, s->grid, s->grid, low, high);
    }
    int64_t x = box.x + THUMB + 2 * GAP;
    int64_t height =
        picture_text_wrapped(p, x, y + 4, TEXT_WIDTH, TEXT_SCALE, COLOUR_INK, row->caption);
    const char *slash = strrchr(row->name, '/');
    picture_text(p, x, y + 4 + height + 6, 1, COLOUR_GREY, slash ? slash + 1 : row->name);
}

int attention_map_write(const struct attention_map *s, const char *path, struct bl_error *err)
{
    bl_autopicture struct picture p = {0};
    int64_t pictures = (1 + s->query_count) * (THUMB + GAP);
    char left_out[64];
    BL_TRY(picture_init(&p, GAP + pictures + TEXT_WIDTH + 2 * GAP,
                        HEAD + s->row_count * (THUMB + GAP) + (s->left_out ? HEAD : 0) + GAP,
                        COLOUR_WHITE, err));
    picture_text(&p, GAP, 10, 1, COLOUR_GREY, "image");
    for (int q = 0; q < s->query_count; q++) {
        char label[32];
        snprintf(label, sizeof label, "query %lld", (long long)s->queries[q]);
        picture_text(&p, GAP + (1 + q) * (THUMB + GAP), 10, 1, COLOUR_GREY, label);
    }
    for (int i = 0; i < s->row_count; i++)
        draw_row(&p, s, &s->rows[i], HEAD + i * (THUMB + GAP));
    snprintf(left_out, sizeof left_out, "%d more images are not drawn", s->left_out);
    if (s->left_out)
        picture_text(&p, GAP, HEAD + s->row_count * (THUMB + GAP) + 8, 1, COLOUR_GREY, left_out);
    return picture_write(&p, path, err);
}
