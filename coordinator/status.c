/* coordinator/status.c - see status.h. */
#include "coordinator/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "coordinator/progress.h"

#define WAITING_SHOWN_S 1.0 /* a shorter wait is the normal course of a step */
#define SILENCE_SHOWN_S 5.0
#define CELL_BYTES 256

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* 0 where there is none. */
static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static long long whole_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static bool is_known(const json_t *object, const char *key)
{
    return json_is_number(json_object_get(object, key));
}

/* The latest step's, and of several sources each, where it had a label. */
static void print_losses(FILE *out, const json_t *s)
{
    const json_t *source;
    size_t i;
    fprintf(out, ", loss %.4f", number_of(s, "loss"));
    json_array_foreach(json_object_get(s, "source_losses"), i, source)
    {
        fputs(i ? " " : " (", out);
        if (json_is_number(source))
            fprintf(out, "%.4f", json_number_value(source));
        else
            putc('-', out);
    }
    fputs(i ? ")" : "", out);
}

static void print_run(FILE *out, const json_t *s)
{
    char left[32];
    fprintf(out, "run %s: %s%s, generation %lld\n", text_of(s, "run_folder"), text_of(s, "state"),
            json_is_true(json_object_get(s, "stopping")) ? ", stopping" : "",
            whole_of(s, "generation"));
    fprintf(out, "coordinator %s (process %lld) at %s%s\n", text_of(s, "host"), whole_of(s, "pid"),
            text_of(s, "endpoint"),
            !strcmp(text_of(s, "security"), "none")
                ? ", insecure: nothing is encrypted or authenticated"
                : "");
    fprintf(out, "step %lld/%lld, epoch %.2f", whole_of(s, "step"), whole_of(s, "steps"),
            number_of(s, "epoch"));
    if (is_known(s, "loss"))
        print_losses(out, s);
    if (is_known(s, "seconds_left")) {
        progress_duration(left, sizeof left, number_of(s, "seconds_left"));
        fprintf(out, ", %.1f images/s, %.0f tokens/s, ETA %s, most of the time: %s",
                number_of(s, "images_per_s"), number_of(s, "tokens_per_s"), left,
                text_of(s, "bound_by"));
    }
    fputs("\n", out);
    if (is_known(s, "checkpoint"))
        fprintf(out, "newest checkpoint: step %lld\n", whole_of(s, "checkpoint"));
    if (whole_of(s, "samples_bad"))
        fprintf(out, "bad samples: %lld of %lld\n", whole_of(s, "samples_bad"),
                whole_of(s, "samples_seen"));
    if (whole_of(s, "hedged"))
        fprintf(out, "micro-batches asked of a second loader: %lld of %lld\n",
                whole_of(s, "hedged"), whole_of(s, "assignments"));
}

static void print_waiting(FILE *out, const json_t *s)
{
    const json_t *w = json_object_get(s, "waiting");
    if (whole_of(s, "workers_needed") > 0)
        fprintf(out, "waiting for workers: %lld more\n", whole_of(s, "workers_needed"));
    if (json_array_size(json_object_get(s, "loaders")) == 0)
        fputs("waiting for a loader\n", out);
    if (!json_is_object(w) || number_of(w, "seconds") < WAITING_SHOWN_S)
        return;
    const char *peer = text_of(w, "peer"), *other = text_of(w, "other");
    fprintf(out, "waiting for %s%s%s%s%s", peer, peer[0] ? " " : "", text_of(w, "for"),
            other[0] ? " " : "", other);
    if (is_known(w, "micro_batch"))
        fprintf(out, " (%s step %lld, micro-batch %lld)", text_of(w, "kind"), whole_of(w, "step"),
                whole_of(w, "micro_batch"));
    fprintf(out, ", for %.1f s\n", number_of(w, "seconds"));
}

/* "train, waits for data; silent for 12 s" */
static void describe(const json_t *m, char ret[CELL_BYTES])
{
    const char *doing = text_of(m, "doing"), *waiting = text_of(m, "waiting");
    bool is_member = strcmp(text_of(m, "state"), "member") == 0;
    int n = snprintf(ret, CELL_BYTES, "%s", is_member && doing[0] ? doing : text_of(m, "state"));
    if (waiting[0])
        n += snprintf(ret + n, CELL_BYTES - (size_t)n, ", waits for %s", waiting);
    if (json_is_true(json_object_get(m, "left_out")))
        n += snprintf(ret + n, CELL_BYTES - (size_t)n, "; is left out for a while");
    if (number_of(m, "heard_s") >= SILENCE_SHOWN_S)
        snprintf(ret + n, CELL_BYTES - (size_t)n, "; silent for %.0f s", number_of(m, "heard_s"));
    else if (is_member && number_of(m, "progress_s") >= SILENCE_SHOWN_S)
        snprintf(ret + n, CELL_BYTES - (size_t)n, "; no progress for %.0f s",
                 number_of(m, "progress_s"));
}

static int width_of(const json_t *members, const char *key, const char *title)
{
    size_t i, width = strlen(title);
    const json_t *m;
    json_array_foreach(members, i, m)
    {
        size_t length = strlen(text_of(m, key));
        width = length > width ? length : width;
    }
    return (int)width;
}

static void seconds_cell(const json_t *m, const char *key, char ret[32])
{
    snprintf(ret, 32, is_known(m, key) ? "%.3f" : "-", number_of(m, key));
}

static void print_workers(FILE *out, const json_t *workers)
{
    int name = width_of(workers, "name", "worker"), host = width_of(workers, "host", "host");
    size_t i;
    const json_t *m;
    fprintf(out, "\nrank  %-*s  %-*s     step   data s  compute s  all-reduce s  state\n", name,
            "worker", host, "host");
    json_array_foreach(workers, i, m)
    {
        char rank[32] = "-", step[32] = "-", data[32], compute[32], reduce[32], state[CELL_BYTES];
        if (is_known(m, "rank")) {
            snprintf(rank, sizeof rank, "%lld", whole_of(m, "rank"));
            snprintf(step, sizeof step, "%lld", whole_of(m, "step"));
        }
        seconds_cell(m, "data_s", data);
        seconds_cell(m, "compute_s", compute);
        seconds_cell(m, "reduce_s", reduce);
        describe(m, state);
        fprintf(out, "%4s  %-*s  %-*s %8s %8s  %9s  %12s  %s\n", rank, name, text_of(m, "name"),
                host, text_of(m, "host"), step, data, compute, reduce, state);
    }
}

static void print_loaders(FILE *out, const json_t *loaders)
{
    int name = width_of(loaders, "name", "loader"), host = width_of(loaders, "host", "host");
    size_t i;
    const json_t *m;
    fprintf(out, "\n%-*s  %-*s  assignments  state\n", name, "loader", host, "host");
    json_array_foreach(loaders, i, m)
    {
        char assignments[64], state[CELL_BYTES];
        snprintf(assignments, sizeof assignments, "%lld/%lld", whole_of(m, "assignments"),
                 whole_of(m, "capacity"));
        describe(m, state);
        fprintf(out, "%-*s  %-*s  %11s  %s\n", name, text_of(m, "name"), host, text_of(m, "host"),
                assignments, state);
    }
}

int status_text(const json_t *status, char **ret, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return bl_fail(err, BL_ENOMEM, "no memory for the status");
    print_run(out, status);
    print_waiting(out, status);
    print_workers(out, json_object_get(status, "workers"));
    print_loaders(out, json_object_get(status, "loaders"));
    if (fclose(out) != 0)
        return bl_fail(err, BL_ENOMEM, "no memory for the status");
    *ret = bl_take(&text);
    return 0;
}
