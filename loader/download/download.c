/* loader/download/download.c - see download.h.
 *
 * A URL that is asked for is an item: in the inbox, then in its host's queue or asleep until its time, then with libcurl, then done.
 * The table, the inbox and what has become of an item are under the lock; all else belongs to the thread. */
#include "loader/download/download.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/http/http.h"
#include "common/progress.h"
#include "loader/download/image_cache.h"
#include "loader/download/transfer.h"

enum {
    BUCKETS = 4096,
    CONNECTIONS_MAX = 64,
    LOCK_POLL_MS = 50, /* another process fetches it */
    BACKOFF_MS = 500,
    BACKOFF_MS_MAX = 60000,
    REFUSALS = 3 /* the same answer so often is final */
};

struct item {
    char *url, *path; /* in the cache */
    /* under the lock: */
    unsigned waiters;
    bool done;
    struct bl_error error; /* code 0: the image is in the cache */
    struct item *next_in_bucket;
    /* the thread's: */
    struct item *next; /* in the inbox (under the lock), a host's queue, or asleep */
    struct host *host;
    bool locked, running, open;
    int fd;
    char *part;
    struct transfer transfer;
    unsigned failures;
    uint64_t first_failure_ms, not_before_ms;
};

struct queue {
    struct item *first, **end;
};

struct host {
    char *name;     /* "https://example.org:8080" */
    uint64_t items; /* that are its, wherever they are */
    int running;
    unsigned failures; /* in a row, of those that are the host's */
    uint64_t not_before_ms;
    struct queue queue;
    struct host *next;
};

struct download {
    struct download_options options;
    struct transfer_options transfer;
    struct image_cache *cache;
    CURLM *multi;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock: */
    bool stopping;
    struct item *buckets[BUCKETS];
    struct queue inbox;
    uint64_t pending;
    /* the thread's: */
    struct host *hosts;
    struct queue asleep; /* in no order */
    int running;
};

static const struct {
    const char *words;
    bool final;
} outcomes[] = {
#define X(name, words, final) {words, final},
    DOWNLOAD_OUTCOMES(X)
#undef X
};

const char *download_outcome_words(enum download_outcome outcome)
{
    return outcomes[outcome].words;
}

bool download_outcome_is_final(enum download_outcome outcome)
{
    return outcomes[outcome].final;
}

struct download_options download_options_of(const struct config_data *data)
{
    return (struct download_options){.cache = data->cache,
                                     .cache_bytes = (uint64_t)data->cache_bytes,
                                     .image_bytes_max = (uint64_t)data->max_image_bytes,
                                     .host_connections = (int)data->host_connections,
                                     .timeout_s = data->download_timeout_s,
                                     .patience_s = data->download_patience_s,
                                     .private_redirects = data->private_redirects};
}

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "no memory for a download");
}

static void queue_init(struct queue *q)
{
    q->first = NULL;
    q->end = &q->first;
}

static void queue_add(struct queue *q, struct item *item)
{
    item->next = NULL;
    *q->end = item;
    q->end = &item->next;
}

static struct item *queue_take(struct queue *q)
{
    struct item *item = q->first;
    if (item && !(q->first = item->next))
        q->end = &q->first;
    return item;
}

/* -- the table, under the lock ----------------------------------------------------------------- */

static struct item **bucket_of(struct download *d, const char *path)
{
    const char *digits = strrchr(path, '/') + 1;
    char start[5] = {digits[0], digits[1], digits[2], digits[3], 0};
    return &d->buckets[strtoul(start, NULL, 16) % BUCKETS];
}

static struct item *find_item(struct download *d, const char *path)
{
    struct item *item = *bucket_of(d, path);
    while (item && strcmp(item->path, path))
        item = item->next_in_bucket;
    return item;
}

static void free_item(struct item *item)
{
    free(item->url);
    free(item->path);
    free(item->part);
    free(item);
}

static void drop_item(struct download *d, struct item *item)
{
    struct item **at = bucket_of(d, item->path);
    while (*at != item)
        at = &(*at)->next_in_bucket;
    *at = item->next_in_bucket;
    free_item(item);
}

static int add_item(struct download *d, const struct location *location, struct item **ret,
                    struct bl_error *err)
{
    struct item *item = calloc(1, sizeof *item);
    if (!item)
        return fail_nomem(err);
    item->fd = -1;
    item->url = strndup(location->url, location->url_length);
    item->path = strdup(location->path);
    if (!item->url || !item->path) {
        free_item(item);
        return fail_nomem(err);
    }
    struct item **bucket = bucket_of(d, item->path);
    item->next_in_bucket = *bucket;
    *bucket = item;
    queue_add(&d->inbox, item);
    d->pending++;
    *ret = item;
    return 0;
}

/* -- hosts ------------------------------------------------------------------------------------ */

/* Scheme, host and port: up to the third slash. */
static size_t host_length(const char *url)
{
    const char *start = strstr(url, "://");
    return start ? (size_t)(start - url) + 3 + strcspn(start + 3, "/?#") : strlen(url);
}

static struct host *find_host(struct download *d, const char *url)
{
    size_t length = host_length(url);
    struct host *host = d->hosts;
    while (host && (strlen(host->name) != length || strncasecmp(host->name, url, length)))
        host = host->next;
    if (host)
        return host;
    host = calloc(1, sizeof *host);
    if (!host || !(host->name = strndup(url, length))) {
        free(host);
        return NULL;
    }
    queue_init(&host->queue);
    host->next = d->hosts;
    d->hosts = host;
    return host;
}

/* Forgets hosts that nobody asks for and that need no rest. */
static void forget_hosts(struct download *d, uint64_t now)
{
    for (struct host **at = &d->hosts; *at;) {
        struct host *host = *at;
        if (host->items || host->not_before_ms > now) {
            at = &host->next;
            continue;
        }
        *at = host->next;
        free(host->name);
        free(host);
    }
}

static uint64_t backoff_ms(unsigned failures)
{
    uint64_t ms = BACKOFF_MS;
    while (failures-- > 1 && ms < BACKOFF_MS_MAX)
        ms *= 2;
    return ms < BACKOFF_MS_MAX ? ms : BACKOFF_MS_MAX;
}

/* -- an item's end ---------------------------------------------------------------------------- */

static void release(struct download *d, struct item *item)
{
    if (item->open)
        transfer_release(&item->transfer);
    item->open = false;
    if (item->fd >= 0)
        close(item->fd);
    item->fd = -1;
    if (item->part)
        unlink(item->part);
    if (item->locked)
        image_cache_unlock(d->cache, item->path);
    item->locked = false;
}

/* What became of it. error NULL: the image is there. */
static void complete(struct download *d, struct item *item, enum download_outcome outcome,
                     const char *reason, const struct bl_error *error)
{
    uint64_t bytes = item->transfer.size;
    release(d, item);
    if (item->host)
        item->host->items--;
    if (d->options.done)
        d->options.done(d->options.context, item->url, outcome, reason, bytes);
    pthread_mutex_lock(&d->lock);
    if (error)
        item->error = *error;
    item->done = true;
    d->pending--;
    if (!item->waiters)
        drop_item(d, item);
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

/* This host's memory or disk fails. */
static void break_off(struct download *d, struct item *item, const struct bl_error *err)
{
    complete(d, item, DOWNLOAD_UNWRITTEN, err->text, err);
}

static void fail_item(struct download *d, struct item *item, enum download_outcome outcome,
                      const char *reason)
{
    struct bl_error err;
    bool final = outcomes[outcome].final;
    char kept[IMAGE_CACHE_REASON_MAX];
    snprintf(kept, sizeof kept, "%s: %s", outcomes[outcome].words, reason);
    if (final && image_cache_fail(d->cache, item->path, kept, &err) < 0) {
        break_off(d, item, &err);
        return;
    }
    bl_fail(&err, final ? BL_EDATA : BL_EIO, "%s", kept);
    if (!final) {
        err.os_error = ETIMEDOUT; /* a passing fault: location_failure_of */
        bl_error_remedy(&err, "%s",
                        outcome == DOWNLOAD_UNTRUSTED
                            ? HTTP_TRUST_REMEDY
                            : "check the network and the server; `blipren-loader fetch RUN.yaml` "
                              "reports what cannot be fetched");
    }
    bl_error_file(&err, item->url);
    complete(d, item, outcome, reason, &err);
}

static void keep(struct download *d, struct item *item)
{
    struct bl_error err;
    const struct transfer *t = &item->transfer;
    bl_autofree char *part = bl_take(&item->part);
    if (image_cache_keep(d->cache, item->path, part, t->digest, t->size, &err) < 0)
        break_off(d, item, &err);
    else
        complete(d, item, DOWNLOAD_FETCHED, "", NULL);
}

/* -- an item's tries -------------------------------------------------------------------------- */

static void sleep_until(struct download *d, struct item *item, uint64_t ms)
{
    item->not_before_ms = ms;
    queue_add(&d->asleep, item);
}

/* A failure that may be another one the next time. */
static bool may_change(const struct item *item, enum download_outcome outcome)
{
    if (outcome == DOWNLOAD_REFUSED)
        return item->failures + 1 < REFUSALS;
    return !outcomes[outcome].final && outcome != DOWNLOAD_UNTRUSTED;
}

static bool is_the_hosts(enum download_outcome outcome, const struct transfer_result *result)
{
    return outcome == DOWNLOAD_UNREACHABLE || outcome == DOWNLOAD_TIMED_OUT ||
           result->retry_after_s || !strcmp(result->reason, "HTTP 429") ||
           !strcmp(result->reason, "HTTP 503");
}

/* A passing failure, or a refusal that may be one. */
static void try_later(struct download *d, struct item *item, const struct transfer_result *result)
{
    struct bl_error err;
    uint64_t now = bl_now_ms(), rest = (uint64_t)result->retry_after_s * 1000;
    struct host *host = item->host;
    if (!item->failures++)
        item->first_failure_ms = now;
    uint64_t wait = backoff_ms(item->failures);
    if (is_the_hosts(result->outcome, result)) {
        host->failures++;
        uint64_t host_wait = backoff_ms(host->failures);
        host->not_before_ms = now + (rest > host_wait ? rest : host_wait);
        wait = rest > wait ? rest : wait;
    }
    uint64_t end = item->first_failure_ms + (uint64_t)(d->options.patience_s * 1000);
    if (now + wait > end)
        fail_item(d, item, result->outcome, result->reason);
    else if (transfer_rewind(&item->transfer, item->url, &err) < 0)
        break_off(d, item, &err);
    else
        sleep_until(d, item, now + wait);
}

static void settle(struct download *d, struct item *item, const struct transfer_result *result)
{
    bool final = outcomes[result->outcome].final;
    if (final || result->outcome == DOWNLOAD_FETCHED)
        item->host->failures = 0;
    if (result->outcome == DOWNLOAD_FETCHED)
        keep(d, item);
    else if (may_change(item, result->outcome))
        try_later(d, item, result);
    else
        fail_item(d, item, result->outcome, result->reason);
}

static void start_exchange(struct download *d, struct item *item)
{
    struct bl_error err;
    curl_easy_setopt(item->transfer.easy, CURLOPT_PRIVATE, item);
    if (transfer_start(&item->transfer, &err) < 0) {
        break_off(d, item, &err);
        return;
    }
    curl_multi_add_handle(d->multi, item->transfer.easy);
    item->running = true;
    item->host->running++;
    d->running++;
}

static void end_exchange(struct download *d, struct item *item, CURLcode code)
{
    struct transfer_result result;
    curl_multi_remove_handle(d->multi, item->transfer.easy);
    item->running = false;
    item->host->running--;
    d->running--;
    if (transfer_end(&item->transfer, code, &result) == TRANSFER_AGAIN)
        start_exchange(d, item);
    else
        settle(d, item, &result);
}

/* Is it there already, or has it failed for good? Then the item is done. */
static bool is_known(struct download *d, struct item *item)
{
    char reason[IMAGE_CACHE_REASON_MAX];
    enum image_cache_state state = image_cache_find(item->path, reason);
    if (state == IMAGE_CACHE_ABSENT || (state == IMAGE_CACHE_FAILED && d->options.retry_failed))
        return false;
    if (state == IMAGE_CACHE_HERE) {
        complete(d, item, DOWNLOAD_CACHED, "", NULL);
        return true;
    }
    struct bl_error err;
    bl_fail(&err, BL_EDATA, "%s", reason);
    complete(d, item, DOWNLOAD_GONE, reason, &err);
    return true;
}

static int open_item(struct download *d, struct item *item, struct bl_error *err)
{
    BL_TRY(image_cache_part_open(d->cache, item->path, &item->fd, &item->part, err));
    item->open = true;
    return transfer_open(&item->transfer, &d->transfer, item->url, item->fd, err);
}

/* From a host's queue to libcurl, unless it need not or must not be fetched. */
static void start_item(struct download *d, struct item *item)
{
    struct bl_error err;
    if (!item->locked) {
        if (is_known(d, item))
            return;
        if (!image_cache_lock(d->cache, item->path)) {
            sleep_until(d, item, bl_now_ms() + LOCK_POLL_MS);
            return;
        }
        item->locked = true;
        if (is_known(d, item)) /* since then, by another process */
            return;
    }
    if (!item->open && open_item(d, item, &err) < 0)
        break_off(d, item, &err);
    else
        start_exchange(d, item);
}

/* -- the thread ------------------------------------------------------------------------------- */

static void enqueue(struct download *d, struct item *item)
{
    struct bl_error err;
    if (!item->host && (item->host = find_host(d, item->url)))
        item->host->items++;
    if (item->host) {
        queue_add(&item->host->queue, item);
        return;
    }
    fail_nomem(&err);
    break_off(d, item, &err);
}

/* What has come in and whose time it is; false: the thread is to end. */
static bool take_in(struct download *d, uint64_t now)
{
    pthread_mutex_lock(&d->lock);
    bool stopping = d->stopping;
    struct queue inbox = d->inbox;
    queue_init(&d->inbox);
    pthread_mutex_unlock(&d->lock);
    for (struct item *item = inbox.first, *next; item; item = next) {
        next = item->next;
        enqueue(d, item);
    }
    struct queue asleep = d->asleep;
    queue_init(&d->asleep);
    for (struct item *item = asleep.first, *next; item; item = next) {
        next = item->next;
        if (item->not_before_ms <= now)
            enqueue(d, item);
        else
            queue_add(&d->asleep, item);
    }
    return !stopping;
}

static bool has_room(const struct download *d, const struct host *host, uint64_t now)
{
    int most = host->failures ? 1 : d->options.host_connections;
    return host->queue.first && host->not_before_ms <= now && host->running < most &&
           d->running < CONNECTIONS_MAX;
}

static void start_items(struct download *d, uint64_t now)
{
    for (struct host *host = d->hosts; host; host = host->next)
        while (has_room(d, host, now))
            start_item(d, queue_take(&host->queue));
    forget_hosts(d, now);
}

/* Until something may be started; libcurl wakes for what is running. */
static int wait_ms(const struct download *d, uint64_t now)
{
    uint64_t until = now + 1000;
    for (const struct item *item = d->asleep.first; item; item = item->next)
        until = item->not_before_ms < until ? item->not_before_ms : until;
    for (const struct host *host = d->hosts; host; host = host->next)
        if (host->queue.first && host->not_before_ms > now && host->not_before_ms < until)
            until = host->not_before_ms;
    return until > now ? (int)(until - now) : 0;
}

static void exchange(struct download *d)
{
    int running, left;
    curl_multi_perform(d->multi, &running);
    for (CURLMsg *m; (m = curl_multi_info_read(d->multi, &left));) {
        char *item = NULL;
        CURLcode code = m->data.result;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &item);
        end_exchange(d, (struct item *)(void *)item, code);
    }
}

static void *run_thread(void *argument)
{
    struct download *d = argument;
    while (take_in(d, bl_now_ms())) {
        start_items(d, bl_now_ms());
        exchange(d);
        start_items(d, bl_now_ms());
        curl_multi_poll(d->multi, NULL, 0, wait_ms(d, bl_now_ms()), NULL);
    }
    return NULL;
}

/* -- opening ---------------------------------------------------------------------------------- */

static void start_libcurl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

int download_open(const struct download_options *options, struct download **ret,
                  struct bl_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    bl_auto(download) struct download *d = calloc(1, sizeof *d);
    pthread_condattr_t monotonic;
    if (!d)
        return fail_nomem(err);
    pthread_once(&once, start_libcurl);
    d->options = *options;
    d->transfer = (struct transfer_options){
        .image_bytes_max = options->image_bytes_max,
        .timeout_s = options->timeout_s < 1 ? 1 : (long)options->timeout_s,
        .private_redirects = options->private_redirects};
    proxies_find(&d->transfer.proxies);
    queue_init(&d->inbox);
    queue_init(&d->asleep);
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    BL_TRY(image_cache_open(options->cache, options->cache_bytes, &d->cache, err));
    d->multi = curl_multi_init();
    if (!d->multi)
        return fail_nomem(err);
    curl_multi_setopt(d->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_MAX);
    if (pthread_create(&d->thread, NULL, run_thread, d))
        return bl_fail(err, BL_ENOMEM, "no thread can be started");
    d->started = true;
    *ret = bl_take(&d);
    return 0;
}

static void drop_all(struct download *d)
{
    for (size_t i = 0; i < BUCKETS; i++)
        while (d->buckets[i]) {
            struct item *item = d->buckets[i];
            if (item->running)
                curl_multi_remove_handle(d->multi, item->transfer.easy);
            release(d, item);
            drop_item(d, item);
        }
    while (d->hosts) {
        struct host *next = d->hosts->next;
        free(d->hosts->name);
        free(d->hosts);
        d->hosts = next;
    }
}

void download_free(struct download **download)
{
    struct download *d = *download;
    if (!d)
        return;
    if (d->started) {
        pthread_mutex_lock(&d->lock);
        d->stopping = true;
        pthread_mutex_unlock(&d->lock);
        curl_multi_wakeup(d->multi);
        pthread_join(d->thread, NULL);
    }
    drop_all(d);
    curl_multi_cleanup(d->multi);
    image_cache_free(&d->cache);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
    *download = NULL;
}

/* -- asking ----------------------------------------------------------------------------------- */

int download_want(struct download *d, const struct location *location, struct bl_error *err)
{
    struct item *item;
    int rc = 0;
    pthread_mutex_lock(&d->lock);
    if (!find_item(d, location->path))
        rc = add_item(d, location, &item, err);
    pthread_mutex_unlock(&d->lock);
    curl_multi_wakeup(d->multi);
    return rc;
}

/* Under the lock, which is let go meanwhile. */
static bool wait_for(struct download *d, const struct item *item,
                     const struct location_patience *patience)
{
    bool go_on = true;
    for (unsigned turns = 1; !item->done && go_on; turns++) {
        struct timespec until = bl_deadline(100);
        if (pthread_cond_timedwait(&d->changed, &d->lock, &until) == 0)
            continue;
        pthread_mutex_unlock(&d->lock);
        if (turns % 10 == 0)
            bl_progress_add(1); /* waiting for a host is no reason to take the work away */
        go_on = patience->wait(patience->context, 0);
        pthread_mutex_lock(&d->lock);
    }
    return item->done;
}

static int ask(struct download *d, const struct location *location,
               const struct location_patience *patience, struct bl_error *err)
{
    struct item *item = find_item(d, location->path);
    if (!item) {
        BL_TRY(add_item(d, location, &item, err));
        curl_multi_wakeup(d->multi);
    }
    item->waiters++;
    bool done = wait_for(d, item, patience);
    int rc = 0;
    if (!done) {
        rc = bl_fail(err, BL_ESTOPPED, "stopped while waiting for an image");
    } else if (item->error.code) {
        *err = item->error;
        rc = -item->error.code;
    }
    if (--item->waiters == 0 && done)
        drop_item(d, item);
    return rc;
}

int download_get(struct download *d, const struct location *location,
                 const struct location_patience *patience, struct bl_error *err)
{
    char reason[IMAGE_CACHE_REASON_MAX];
    enum image_cache_state state = image_cache_find(location->path, reason);
    if (state == IMAGE_CACHE_HERE)
        return 0;
    if (state == IMAGE_CACHE_FAILED && !d->options.retry_failed)
        return bl_fail(err, BL_EDATA, "%s", reason);
    pthread_mutex_lock(&d->lock);
    int rc = ask(d, location, patience, err);
    pthread_mutex_unlock(&d->lock);
    return rc;
}

uint64_t download_pending(struct download *d)
{
    pthread_mutex_lock(&d->lock);
    uint64_t pending = d->pending;
    pthread_mutex_unlock(&d->lock);
    return pending;
}
