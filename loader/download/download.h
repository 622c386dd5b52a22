/* loader/download/download.h - images from URLs into the cache: a thread with many connections, which any number of threads ask.
 *
 * A host gets a few connections at a time, which are kept open. One that fails or says so (429, 503, Retry-After) is left alone
 * for a time that grows, and then gets one. A final failure is recorded in the cache and never tried again by get; a passing one
 * is tried again until patience_s after the first, but for a certificate that is not trusted, which no wait would change. http, https and file; a redirect to another scheme is refused, and one to a
 * private address (address.h) unless it is allowed, as is one from https to http. Two processes never fetch a URL at the same time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/config/config.h"
#include "common/data/location.h"
#include "common/error.h"

#define DOWNLOAD_REASON_MAX 160

/* name, words, whether it is final */
#define DOWNLOAD_OUTCOMES(X)                                                                       \
    X(CACHED, "in the cache", false)                                                               \
    X(FETCHED, "fetched", false)                                                                   \
    X(GONE, "not found", true)                                                                     \
    X(REFUSED, "refused by the server", true)                                                      \
    X(REDIRECTED, "redirected too often or to where it must not", true)                            \
    X(NOT_IMAGE, "not an image", true)                                                             \
    X(TOO_LARGE, "larger than data.max_image_bytes", true)                                         \
    X(TIMED_OUT, "timed out", false)                                                               \
    X(UNTRUSTED, "the server's certificate is not trusted", false)                                 \
    X(UNREACHABLE, "no connection", false)                                                         \
    X(BUSY, "server error or too many requests", false)                                            \
    X(CUT_OFF, "cut off", false)                                                                   \
    X(UNWRITTEN, "data.cache cannot be written", false)

enum download_outcome {
#define X(name, words, final) DOWNLOAD_##name,
    DOWNLOAD_OUTCOMES(X)
#undef X
        DOWNLOAD_OUTCOME_COUNT
};
const char *download_outcome_words(enum download_outcome outcome);
bool download_outcome_is_final(enum download_outcome outcome);

struct download_options {
    const char *cache;    /* folder */
    uint64_t cache_bytes; /* limit; 0: none */
    uint64_t image_bytes_max;
    int host_connections;
    double timeout_s;  /* without a byte, or below 1 kB/s for so long */
    double patience_s; /* passing failures are tried again for so long */
    bool private_redirects;
    bool retry_failed; /* ask again for what the cache says has failed */
    /* Of each URL wanted or asked for: what became of it, on the download's thread. reason: "404 Not Found"; bytes: of FETCHED.
     * May be NULL. */
    void (*done)(void *context, const char *url, enum download_outcome outcome, const char *reason,
                 uint64_t bytes);
    void *context;
};

/* What the configuration says; nobody is told what became of a URL. The folder's path is borrowed. */
struct download_options download_options_of(const struct config_data *data);

struct download;

/* Opens the cache and starts the thread. *ret is the caller's. */
int download_open(const struct download_options *options, struct download **ret,
                  struct bl_error *err);
/* Ends the thread; what it was fetching is dropped. NULL is fine; sets *download to NULL. */
void download_free(struct download **download);

/* The image at a LOCATION_URL will be needed: returns at once. -BL_ENOMEM. */
int download_want(struct download *download, const struct location *location, struct bl_error *err);
/* Waits until it is in the cache. -BL_EDATA: it has failed for good. -BL_EIO: for a passing reason, for patience_s; or the cache
 * cannot be written. -BL_ESTOPPED: patience->wait returned false. */
int download_get(struct download *download, const struct location *location,
                 const struct location_patience *patience, struct bl_error *err);
/* How many wanted URLs are not done. */
uint64_t download_pending(struct download *download);
