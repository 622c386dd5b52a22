/* coordinator/progress.h - what the run is doing, for people: one line drawn over and over on a
 * terminal, plain lines elsewhere. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct progress_view {
    const char *phase; /* "gathering", "forming", "training", "validating", "saving", "stopping" */
    bool embeds;       /* then steps are images, and there is no loss */
    int64_t step, steps;
    double epoch;
    double loss;               /* nats per token of the latest step */
    const char *source_losses; /* of each source: " (2.314 1.870)"; "": there is one */
    double images_per_s, tokens_per_s;
    double seconds_left; /* negative: unknown */
    const char *
        waiting; /* "data", "compute" or "all-reduce": where the steps' time goes; else who or what must come first */
    int workers, loaders;
};

/* The line that fits into so many columns: what matters least is left out first. */
void progress_text(char *ret, unsigned long size, const struct progress_view *view, int columns);

/* Standard output is a terminal that can draw a line over. */
bool progress_on_terminal(void);

/* Draws on standard output. Plain lines come when `line` is set, the terminal's line on every call.
 */
void progress_show(const struct progress_view *view, bool line);
/* Leaves the cursor on a fresh line. */
void progress_end(void);

/* "1:02:03", "4:05" */
void progress_duration(char *ret, unsigned long size, double seconds);

/* Which of the three takes most of the time; "first step" when all are zero. */
const char *progress_bound_by(double data_wait_s, double compute_s, double reduce_wait_s);
