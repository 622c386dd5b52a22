/* coordinator/curves.c - see curves.h. */
#include "coordinator/curves.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/picture/chart.h"
#include "common/cleanup.h"
#include "common/file.h"

#define METRICS_BYTES_MAX (1 << 30)
#define WIDTH 960
#define HEIGHT 540
/* The thick line is a running mean over this share of the run. */
#define SMOOTH_SHARE 50

struct points {
    double *x, *y;
    size_t count, capacity;
};

static void points_release(struct points *p)
{
    free(p->x);
    free(p->y);
}

static int points_add(struct points *p, double x, double y, struct bl_error *err)
{
    /* a line of a step that was rewound and done again replaces those from there on */
    while (p->count && p->x[p->count - 1] >= x)
        p->count--;
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 1024;
        double *xs = realloc(p->x, capacity * sizeof *xs);
        if (xs)
            p->x = xs;
        double *ys = realloc(p->y, capacity * sizeof *ys);
        if (ys)
            p->y = ys;
        if (!xs || !ys)
            return bl_fail(err, BL_ENOMEM, "no memory for the curves");
        p->capacity = capacity;
    }
    p->x[p->count] = x;
    p->y[p->count++] = y;
    return 0;
}

static int read_line(const char *line, size_t size, struct points *train, struct points *validation,
                     struct points *shuffled, struct bl_error *err)
{
    json_t *o = json_loadb(line, size, 0, NULL); /* a torn last line is no point */
    const char *type = json_string_value(json_object_get(o, "type"));
    double step = json_number_value(json_object_get(o, "step"));
    json_t *loss = json_object_get(o, "loss_nats"),
           *other = json_object_get(o, "shuffled_loss_nats");
    int rc = 0;
    if (type && !strcmp(type, "step") && json_is_number(loss))
        rc = points_add(train, step, json_number_value(loss), err);
    if (type && !strcmp(type, "validation") && json_is_number(loss))
        rc = points_add(validation, step, json_number_value(loss), err);
    if (rc == 0 && type && !strcmp(type, "validation") && json_is_number(other))
        rc = points_add(shuffled, step, json_number_value(other), err);
    json_decref(o);
    return rc;
}

static int read_metrics(const char *run_folder, struct points *train, struct points *validation,
                        struct points *shuffled, struct bl_error *err)
{
    char path[4096];
    bl_autofree char *text = NULL;
    size_t size;
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "metrics.jsonl", err));
    BL_TRY(bl_file_read(path, METRICS_BYTES_MAX, &text, &size, err));
    for (size_t at = 0; at < size;) {
        size_t length = strcspn(text + at, "\n");
        BL_TRY(read_line(text + at, length, train, validation, shuffled, err));
        at += length + 1;
    }
    return 0;
}

/* Exponential running mean over about 1/SMOOTH_SHARE of the points, without the bias of its start. */
static int smooth(const struct points *from, struct points *to, struct bl_error *err)
{
    double weight = 0, sum = 0, keep = 1 - 1 / fmax(1, (double)from->count / SMOOTH_SHARE);
    for (size_t i = 0; i < from->count; i++) {
        weight = keep * weight + 1;
        sum = keep * sum + from->y[i];
        BL_TRY(points_add(to, from->x[i], sum / weight, err));
    }
    return 0;
}

int curves_draw(const char *run_folder, struct bl_error *err)
{
    static const struct colour pale = {170, 200, 232};
    char path[4096];
    __attribute__((cleanup(points_release))) struct points train = {0}, validation = {0},
                                                           shuffled = {0}, mean = {0};
    bl_autopicture struct picture picture = {0};
    BL_TRY(read_metrics(run_folder, &train, &validation, &shuffled, err));
    if (!train.count)
        return 0;
    BL_TRY(smooth(&train, &mean, err));
    BL_TRY(picture_init(&picture, WIDTH, HEIGHT, COLOUR_WHITE, err));
    const struct chart_series series[] = {
        {.name = NULL, .x = train.x, .y = train.y, .count = train.count, .colour = &pale},
        {.name = "training", .x = mean.x, .y = mean.y, .count = mean.count},
        {.name = "validation", .x = validation.x, .y = validation.y, .count = validation.count},
        {.name = "validation, images exchanged",
         .x = shuffled.x,
         .y = shuffled.y,
         .count = shuffled.count},
    };
    struct chart chart = {.title = "Loss, nats per label token",
                          .x_label = "optimizer steps",
                          .y_label = "loss",
                          .series = series,
                          .series_count = sizeof series / sizeof *series};
    chart_draw(&picture, (struct box){0, 0, WIDTH, HEIGHT}, &chart);
    BL_TRY(bl_path_join(path, sizeof path, run_folder, "curves.png", err));
    return picture_write(&picture, path, err);
}
