/* coordinator/progress.c - see progress.h. */
#include "coordinator/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/log.h"

#define BAR_WIDTH 20

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
        return "";
    if (data_wait_s >= compute_s && data_wait_s >= reduce_wait_s)
        return "data";
    return compute_s >= reduce_wait_s ? "compute" : "all-reduce";
}

static void compose(char *ret, size_t size, const struct progress_view *v)
{
    char left[32];
    progress_duration(left, sizeof left, v->seconds_left);
    snprintf(ret, size,
             "step %lld/%lld  epoch %.2f  loss %.4f  %.1f images/s  %.0f tokens/s  ETA %s  "
             "waiting for: %s  "
             "%s  %d workers, %d loaders",
             (long long)v->step, (long long)v->steps, v->epoch, v->loss, v->images_per_s,
             v->tokens_per_s, left, v->waiting[0] ? v->waiting : "-", v->phase, v->workers,
             v->loaders);
}

/* The same in fewer than 80 columns. */
static void compose_narrow(char *ret, size_t size, const struct progress_view *v)
{
    char left[32];
    progress_duration(left, sizeof left, v->seconds_left);
    snprintf(ret, size, "%lld/%lld ep %.2f loss %.4f %.0f img/s %.0f tok/s ETA %s waits for %s",
             (long long)v->step, (long long)v->steps, v->epoch, v->loss, v->images_per_s,
             v->tokens_per_s, left, v->waiting[0] ? v->waiting : v->phase);
}

static void compose_bar(char ret[BAR_WIDTH + 1], const struct progress_view *v)
{
    int64_t full = v->steps > 0 ? BAR_WIDTH * v->step / v->steps : 0;
    memset(ret, '.', BAR_WIDTH);
    memset(ret, '#', (size_t)(full < 0 ? 0 : full > BAR_WIDTH ? BAR_WIDTH : full));
    ret[BAR_WIDTH] = 0;
}

void progress_show(const struct progress_view *v, bool line)
{
    char text[400], bar[BAR_WIDTH + 1];
    compose(text, sizeof text, v);
    if (!isatty(STDOUT_FILENO)) {
        if (line) {
            puts(text);
            fflush(stdout);
        }
        return;
    }
    bl_log_around(erase, draw);
    compose_bar(bar, v);
    snprintf(drawn, sizeof drawn, "[%s] %s", bar, text);
    if ((int)strlen(drawn) >= columns())
        compose_narrow(drawn, sizeof drawn, v);
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
