/* coordinator/metrics.c - appending to metrics.jsonl. curves.c draws it. */
#include "coordinator/metrics.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"

/* Of every number: as many as the time in seconds with its milliseconds has. */
#define DIGITS 13

struct metrics {
    FILE *lines, *captions;
};

/* A disk that filled up may have left half a line: it is cut off, as readers take every line for a whole one. */
static int cut_torn_line(FILE *file, struct bl_error *err)
{
    long end = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1, whole = end;
    while (whole > 0 && fseek(file, whole - 1, SEEK_SET) == 0 && fgetc(file) != '\n')
        whole--;
    if (end >= 0 && (whole == end || ftruncate(fileno(file), whole) == 0))
        return 0;
    return bl_fail_errno(err, "half a line at its end cannot be cut off");
}

static const char *const names[] = {"metrics.jsonl", "val_predictions.jsonl"};

int metrics_check(const char *run_folder, struct bl_error *err)
{
    char path[4096];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        BL_TRY(bl_path_join(path, sizeof path, run_folder, names[i], err));
        if (access(path, F_OK) == 0 && access(path, W_OK) < 0) {
            bl_fail_errno(err, "cannot be written");
            return bl_error_file(err, path);
        }
    }
    return 0;
}

static int open_append(const char *folder, const char *name, FILE **ret, struct bl_error *err)
{
    char path[4096];
    BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
    *ret = fopen(path, "a+e");
    if (*ret && cut_torn_line(*ret, err) == 0)
        return 0;
    if (!*ret)
        bl_fail_errno(err, "cannot be written");
    return bl_error_file(err, path);
}

int metrics_open(const char *run_folder, struct metrics **ret, struct bl_error *err)
{
    struct metrics *made = calloc(1, sizeof *made);
    if (!made)
        return bl_fail(err, BL_ENOMEM, "no memory for the metrics");
    int rc = open_append(run_folder, names[0], &made->lines, err);
    if (rc == 0)
        rc = open_append(run_folder, names[1], &made->captions, err);
    if (rc < 0)
        metrics_close(&made);
    *ret = made;
    return rc;
}

void metrics_close(struct metrics **metrics)
{
    struct metrics *m = *metrics;
    if (!m)
        return;
    if (m->lines)
        fclose(m->lines);
    if (m->captions)
        fclose(m->captions);
    free(m);
    *metrics = NULL;
}

static double wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1000;
}

static json_t *numbers(const double *x, int count)
{
    json_t *array = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(array, bl_json_number(x[i]));
    return array;
}

/* Of several sources each, in the order of data.sources. */
static void add_sources(json_t *object, const struct metrics_source *of, int count)
{
    json_t *array = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(
            array, json_pack("{s:o, s:I, s:I}", "loss_nats", bl_json_number(of[i].loss), "tokens",
                             (json_int_t)of[i].tokens, "images", (json_int_t)of[i].images));
    if (count)
        json_object_set_new(object, "sources", array);
    else
        json_decref(array);
}

/* Takes the object over. */
static int append(FILE *file, json_t *object, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    int rc = bl_json_line(object, DIGITS, &text, err);
    json_decref(object);
    BL_TRY(rc);
    if (fprintf(file, "%s\n", text) < 0 || fflush(file) != 0)
        return bl_fail_errno(err, "the metrics cannot be written");
    return 0;
}

int metrics_step(struct metrics *metrics, const struct metrics_step *m, struct bl_error *err)
{
    json_t *o = json_pack(
        "{s:s, s:f, s:I, s:o, s:o, s:I, s:I, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:I}", "type",
        "step", "time", wall_clock(), "step", (json_int_t)m->step, "epoch",
        bl_json_number(m->epoch), "loss_nats", bl_json_number(m->loss), "tokens",
        (json_int_t)m->tokens, "images", (json_int_t)m->images, "learning_rate",
        bl_json_number(m->rate), "grad_norm", bl_json_number(m->norm), "skipped", m->skipped,
        "step_s", bl_json_number(m->step_s), "data_wait_s", bl_json_number(m->data_wait_s),
        "compute_s", bl_json_number(m->compute_s), "reduce_wait_s",
        bl_json_number(m->reduce_wait_s), "hedged", (json_int_t)m->hedged);
    if (m->experts) {
        json_object_set_new(o, "expert_share", numbers(m->share, m->experts));
        json_object_set_new(o, "router_entropy_nats", bl_json_number(m->entropy));
        json_object_set_new(o, "balance_loss", bl_json_number(m->balance_loss));
        json_object_set_new(o, "router_z_loss", bl_json_number(m->router_z_loss));
    }
    add_sources(o, m->source, m->sources);
    return append(metrics->lines, o, err);
}

int metrics_validation(struct metrics *metrics, const struct metrics_validation *m,
                       struct bl_error *err)
{
    json_t *o = json_pack("{s:s, s:f, s:I, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:i, s:i}", "type",
                          "validation", "time", wall_clock(), "step", (json_int_t)m->step,
                          "loss_nats", bl_json_number(m->loss), "token_accuracy",
                          bl_json_number(m->accuracy), "tokens", (json_int_t)m->tokens, "images",
                          (json_int_t)m->images, "paired_loss_nats", bl_json_number(m->paired_loss),
                          "shuffled_loss_nats", bl_json_number(m->shuffled_loss),
                          "image_matters_nats", bl_json_number(m->shuffled_loss - m->paired_loss),
                          "captions", m->captions, "captions_ended", m->ended);
    if (m->experts)
        json_object_set_new(o, "expert_weight", numbers(m->weight, m->experts));
    add_sources(o, m->source, m->sources);
    return append(metrics->lines, o, err);
}

int metrics_rewind(struct metrics *metrics, int64_t step, struct bl_error *err)
{
    return append(metrics->lines,
                  json_pack("{s:s, s:f, s:I}", "type", "rewind", "time", wall_clock(), "step",
                            (json_int_t)step),
                  err);
}

int metrics_caption(struct metrics *metrics, int64_t step, const char *file_name,
                    const char *reference, const char *caption, int ended, struct bl_error *err)
{
    json_t *o = json_pack("{s:I, s:o, s:o, s:o, s:b}", "step", (json_int_t)step, "file_name",
                          bl_json_text(file_name), "reference", bl_json_text(reference), "caption",
                          bl_json_text(caption), "ended", ended);
    return append(metrics->captions, o, err);
}
