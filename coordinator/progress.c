/* coordinator/progress.c - see progress.h. */
#include "coordinator/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/log.h"

#define BAR_WIDTH 20
#define FORMS 6

static char drawn[512]; /* the line on the terminal, to be put back after a log line */

static int columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 10 ? size.ws_col : 80;
}

static void erase(void)
{
    if (drawn[0]) {
        fputs("\r\033[K", stdout);
        fflush(stdout);
    }
}

static void draw(void)
{
    if (drawn[0]) {
        printf("\r\033[K%.*s", columns() - 1, drawn);
        fflush(stdout);
    }
}

void progress_duration(char *ret, unsigned long size, double seconds)
{
    if (!(seconds >= 0 && seconds < 1e9)) {
        snprintf(ret, size, "?");
        return;
    }
    long s = lround(seconds);
    if (s >= 3600)
        snprintf(ret, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(ret, size, "%ld:%02ld", s / 60, s % 60);
}

const char *progress_bound_by(double data_wait_s, double compute_s, double reduce_wait_s)
{
    if (data_wait_s <= 0 && compute_s <= 0 && reduce_wait_s <= 0)
        return "first step";
    if (data_wait_s >= compute_s && data_wait_s >= reduce_wait_s)
        return "data";
    return compute_s >= reduce_wait_s ? "compute" : "all-reduce";
}

static void compose_bar(char ret[BAR_WIDTH + 1], const struct progress_view *v)
{
    int64_t full = v->steps > 0 ? BAR_WIDTH * v->step / v->steps : 0;
    memset(ret, '.', BAR_WIDTH);
    memset(ret, '#', (size_t)(full < 0 ? 0 : full > BAR_WIDTH ? BAR_WIDTH : full));
    ret[BAR_WIDTH] = 0;
}

static void compose_embedding(char *ret, unsigned long size, const struct progress_view *v,
                              int form, const char *bar, const char *left)
{
    long long done = v->step, all = v->steps;
    if (form <= 1)
        snprintf(ret, size,
                 "%s%s%s%lld/%lld images  %.1f images/s  ETA %s  waiting for: %s  %d workers, %d "
                 "loaders",
                 form ? "" : "[", form ? "" : bar, form ? "" : "] ", done, all, v->images_per_s,
                 left, v->waiting, v->workers, v->loaders);
    else
        snprintf(ret, size, "%lld/%lld images ETA %s", done, all, left);
}

/* One of the line's forms, widest first. */
static void compose(char *ret, unsigned long size, const struct progress_view *v, int form)
{
    char left[32], bar[BAR_WIDTH + 1];
    long long step = v->step, steps = v->steps;
    progress_duration(left, sizeof left, v->seconds_left);
    compose_bar(bar, v);
    if (v->embeds)
        return compose_embedding(ret, size, v, form, bar, left);
    switch (form) {
    case 0:
    case 1:
    case 2:
        snprintf(
            ret, size,
            "%s%s%sstep %lld/%lld  epoch %.2f  loss %.4f%s  %.1f images/s  %.0f tokens/s  ETA %s  "
            "waiting for: %s",
            form ? "" : "[", form ? "" : bar, form ? "" : "] ", step, steps, v->epoch, v->loss,
            v->source_losses, v->images_per_s, v->tokens_per_s, left, v->waiting);
        if (form < 2)
            snprintf(ret + strlen(ret), size - strlen(ret), "  %s  %d workers, %d loaders",
                     v->phase, v->workers, v->loaders);
        return;
    case 3:
        snprintf(ret, size, "%lld/%lld ep %.2f loss %.4f %.0f img/s %.0f tok/s ETA %s waits for %s",
                 step, steps, v->epoch, v->loss, v->images_per_s, v->tokens_per_s, left,
                 v->waiting);
        return;
    case 4:
        snprintf(ret, size, "%lld/%lld loss %.3f ETA %s %s", step, steps, v->loss, left,
                 v->waiting);
        return;
    default:
        snprintf(ret, size, "%lld/%lld %s", step, steps, v->waiting);
        return;
    }
}

void progress_text(char *ret, unsigned long size, const struct progress_view *view, int columns)
{
    for (int form = 0; form < FORMS; form++) {
        compose(ret, size, view, form);
        if ((int)strlen(ret) <= columns)
            return;
    }
    if (columns >= 0 && (unsigned long)columns < size)
        ret[columns] = 0;
}

bool progress_on_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
}

void progress_show(const struct progress_view *v, bool line)
{
    if (!progress_on_terminal()) {
        char text[400];
        compose(text, sizeof text, v, 1);
        if (line) {
            puts(text);
            fflush(stdout);
        }
        return;
    }
    bl_log_around(erase, draw);
    progress_text(drawn, sizeof drawn, v, columns() - 1);
    draw();
}

void progress_end(void)
{
    bl_log_around(NULL, NULL);
    if (drawn[0])
        putchar('\n');
    fflush(stdout);
    drawn[0] = 0;
}
