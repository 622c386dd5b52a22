/* loader/fill.c - see fill.h. */
#include "loader/fill.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/config/config.h"
#include "common/data/run.h"
#include "common/data/source.h"
#include "common/deadline.h"
#include "common/http/http.h"
#include "common/log.h"
#include "loader/download/download.h"

enum { WINDOW = 512 /* URLs asked for and not done */, LINE_EVERY_S = 10 };

/* A URL, and the first row that has it. */
struct url {
    char path[40]; /* the start of its digits in the cache's path */
    uint64_t row;  /* over all sources */
};

struct urls {
    struct url *at;
    size_t count, capacity;
};

struct fill {
    const struct config *config;
    struct source_set sources;
    uint64_t rows;
    struct urls urls;
    double began_s;
    double shown_s;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock: */
    uint64_t wanted, done, bytes, counts[DOWNLOAD_OUTCOME_COUNT];
    char *first[DOWNLOAD_OUTCOME_COUNT]; /* "URL: reason" */
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    stopped = 1;
}

/* -- which URLs ------------------------------------------------------------------------------- */

static int open_sources(struct fill *f, struct bl_error *err)
{
    BL_TRY(source_set_open(&f->config->data, &f->sources, err));
    f->rows = source_set_rows(&f->sources);
    return 0;
}

/* The location of a row, if it is a URL's. *text is the caller's, and holds it. */
static int locate(const struct fill *f, uint64_t row, char **text, struct location *ret,
                  bool *is_url, struct bl_error *err)
{
    const struct source_part *part = source_set_find(&f->sources, &row);
    BL_TRY(source_locate(part->source, row, text, err));
    *is_url = *text && location_parse(*text, ret, NULL) == 0 && ret->kind == LOCATION_URL;
    return 0;
}

static int compare_paths(const void *a, const void *b)
{
    const struct url *x = a, *y = b;
    int by_path = memcmp(x->path, y->path, sizeof x->path);
    return by_path ? by_path : (x->row > y->row) - (x->row < y->row);
}

static int compare_rows(const void *a, const void *b)
{
    const struct url *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

/* Each URL once, in the order of rows. */
static void unite(struct urls *urls)
{
    size_t count = 0;
    if (!urls->count)
        return;
    qsort(urls->at, urls->count, sizeof *urls->at, compare_paths);
    for (size_t i = 0; i < urls->count; i++)
        if (!i || memcmp(urls->at[i].path, urls->at[count - 1].path, sizeof urls->at->path))
            urls->at[count++] = urls->at[i];
    urls->count = count;
    qsort(urls->at, count, sizeof *urls->at, compare_rows);
}

static int find_urls(struct fill *f, struct bl_error *err)
{
    for (uint64_t row = 0; row < f->rows && !stopped; row++) {
        bl_autofree char *text = NULL;
        struct location location;
        struct url url = {.row = row};
        bool is_url = false;
        BL_TRY(locate(f, row, &text, &location, &is_url, err));
        if (!is_url)
            continue;
        memcpy(url.path, strrchr(location.path, '/') + 1, sizeof url.path);
        if (!bl_grow(&f->urls.at, &f->urls.capacity, f->urls.count + 1, sizeof url))
            return bl_fail(err, BL_ENOMEM, "no memory for %zu URLs", f->urls.count);
        f->urls.at[f->urls.count++] = url;
    }
    unite(&f->urls);
    return 0;
}

/* -- how far ---------------------------------------------------------------------------------- */

/* Under the lock. */
static void show(struct fill *f)
{
    double s = bl_now_s() - f->began_s;
    bool terminal = isatty(STDERR_FILENO);
    char text[200], left[40] = "";
    uint64_t fetched = f->counts[DOWNLOAD_FETCHED],
             failed = f->done - fetched - f->counts[DOWNLOAD_CACHED];
    if (s - f->shown_s < (terminal ? 0.5 : LINE_EVERY_S))
        return;
    f->shown_s = s;
    double rate = (double)f->done / s;
    long seconds = rate > 0 ? (long)((double)(f->urls.count - f->done) / rate + 0.5) : 0;
    if (seconds)
        snprintf(left, sizeof left, ", about %ld:%02ld:%02ld left", seconds / 3600,
                 seconds / 60 % 60, seconds % 60);
    snprintf(text, sizeof text,
             "fetching: %" PRIu64 " of %zu (%d%%), %.3g images/s, %.3g MB/s, %" PRIu64 " failed%s",
             f->done, f->urls.count, (int)(100 * f->done / f->urls.count), (double)fetched / s,
             (double)f->bytes / s / 1e6, failed, left);
    if (terminal)
        fprintf(stderr, "\r\033[K%s", text);
    else
        bl_log(BL_LOG_INFO, "%s", text);
}

/* On the download's thread. */
static void count(void *context, const char *url, enum download_outcome outcome, const char *reason,
                  uint64_t bytes)
{
    struct fill *f = context;
    pthread_mutex_lock(&f->lock);
    f->done++;
    f->counts[outcome]++;
    if (outcome == DOWNLOAD_FETCHED)
        f->bytes += bytes;
    else if (!f->first[outcome] && asprintf(&f->first[outcome], "%s: %s", url, reason) < 0)
        f->first[outcome] = NULL;
    pthread_cond_signal(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* Until fewer than `most` are under way, or a signal. */
static void wait_until_fewer(struct fill *f, uint64_t most)
{
    pthread_mutex_lock(&f->lock);
    while (f->wanted - f->done >= most && !stopped) {
        struct timespec until = bl_deadline(100);
        pthread_cond_timedwait(&f->changed, &f->lock, &until);
        show(f);
    }
    pthread_mutex_unlock(&f->lock);
}

static int want_all(struct fill *f, struct download *download, struct bl_error *err)
{
    for (size_t i = 0; i < f->urls.count && !stopped; i++) {
        bl_autofree char *text = NULL;
        struct location location;
        bool is_url;
        wait_until_fewer(f, WINDOW);
        BL_TRY(locate(f, f->urls.at[i].row, &text, &location, &is_url, err));
        f->wanted++;
        BL_TRY(download_want(download, &location, err));
    }
    wait_until_fewer(f, 1);
    return 0;
}

static int fetch(struct fill *f, struct bl_error *err)
{
    struct download_options options = download_options_of(&f->config->data);
    options.retry_failed = true;
    options.done = count;
    options.context = f;
    bl_auto(download) struct download *download = NULL;
    BL_TRY(download_open(&options, &download, err));
    return want_all(f, download, err);
}

/* -- what came of it -------------------------------------------------------------------------- */

static void report(const struct fill *f, FILE *out)
{
    double s = bl_now_s() - f->began_s;
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    fprintf(out, "%zu URLs in %" PRIu64 " rows; fetched %.3g MB in %.3g s\n", f->urls.count,
            f->rows, (double)f->bytes / 1e6, s);
    for (int i = 0; i < DOWNLOAD_OUTCOME_COUNT; i++) {
        enum download_outcome outcome = (enum download_outcome)i;
        if (!f->counts[i])
            continue;
        fprintf(out, "%10" PRIu64 "  %s%s", f->counts[i], download_outcome_words(outcome),
                i <= DOWNLOAD_FETCHED                ? "\n"
                : download_outcome_is_final(outcome) ? " (its samples are void)"
                : outcome == DOWNLOAD_UNTRUSTED      ? ""
                                                     : " (try again)");
        if (i > DOWNLOAD_FETCHED)
            fprintf(out, ", the first %s\n", f->first[i] ? f->first[i] : "");
    }
    if (f->done < f->urls.count)
        fprintf(out, "%10" PRIu64 "  not asked for\n", f->urls.count - f->done);
}

static int judge(const struct fill *f, struct bl_error *err)
{
    uint64_t final = 0, passing = 0;
    for (int i = DOWNLOAD_FETCHED + 1; i < DOWNLOAD_OUTCOME_COUNT; i++)
        *(download_outcome_is_final((enum download_outcome)i) ? &final : &passing) += f->counts[i];
    if (stopped)
        return bl_fail(err, BL_ESTOPPED, "stopped on request");
    if (f->counts[DOWNLOAD_UNTRUSTED]) {
        bl_fail(err, BL_EIO, "%" PRIu64 " of %zu URLs are of servers that are not trusted",
                f->counts[DOWNLOAD_UNTRUSTED], f->urls.count);
        return bl_error_remedy(err, HTTP_TRUST_REMEDY);
    }
    if (passing) {
        bl_fail(err, BL_EIO, "%" PRIu64 " of %zu URLs could not be fetched now", passing,
                f->urls.count);
        return bl_error_remedy(err, "run the same command again later");
    }
    if ((double) final <= f->config->data.max_bad_fraction * (double)f->urls.count)
        return 0;
    bl_fail(err, BL_EDATA, "%" PRIu64 " of %zu URLs have no image that can be used", final,
            f->urls.count);
    return bl_error_remedy(err, "check the URLs, or allow for more by data.max_bad_fraction (%g)",
                           f->config->data.max_bad_fraction);
}

static int fill_all(struct fill *f, FILE *out, struct bl_error *err)
{
    BL_TRY(open_sources(f, err));
    BL_TRY(find_urls(f, err));
    if (!f->urls.count && !stopped) {
        fprintf(out, "no image of the run is at a URL\n");
        return 0;
    }
    f->began_s = bl_now_s();
    BL_TRY(fetch(f, err));
    report(f, out);
    return judge(f, err);
}

static void listen_to_signals(void)
{
    int signals[RUN_SIGNALS_MAX], signal_count = run_signals(signals);
    for (int i = 0; i < signal_count; i++)
        sigaction(signals[i], &(struct sigaction){.sa_handler = stop}, NULL);
}

int fill_run(const char *yaml, FILE *out, struct bl_error *err)
{
    bl_auto(config) struct config *config = NULL;
    struct fill f = {0};
    pthread_condattr_t monotonic;
    BL_TRY(config_open(yaml, &config, err));
    f.config = config;
    pthread_mutex_init(&f.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&f.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    listen_to_signals();
    int rc = fill_all(&f, out, err);
    pthread_cond_destroy(&f.changed);
    pthread_mutex_destroy(&f.lock);
    source_set_release(&f.sources);
    free(f.urls.at);
    for (int i = 0; i < DOWNLOAD_OUTCOME_COUNT; i++)
        free(f.first[i]);
    return rc;
}
