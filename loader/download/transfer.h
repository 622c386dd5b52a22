/* loader/download/transfer.h - one exchange with a server by libcurl: what is asked, what comes, and what that means. Everything
 * here belongs to one thread. */
#pragma once

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/hash.h"
#include "loader/download/download.h"
#include "loader/download/proxies.h"

/* What is the same for all. */
struct transfer_options {
    uint64_t image_bytes_max;
    long timeout_s;
    bool private_redirects;
    struct proxies proxies; /* through which the exchanges may go */
};

struct transfer {
    const struct transfer_options *options;
    CURL *easy;
    char error[CURL_ERROR_SIZE]; /* libcurl's words */
    struct curl_slist *headers;
    char *url; /* of this exchange */
    int hops;  /* redirects that led to it */

    int fd; /* the part, from its start */
    uint64_t size;
    struct bl_sha256 hash; /* of what is in the part */
    uint8_t digest[32];    /* its end, of DOWNLOAD_FETCHED */
    bool digested;         /* there is one already: of a body that may have been cut off */
    char
        *validator; /* ETag or Last-Modified, by which the part can be continued; NULL: it cannot */
    char start[16]; /* its first bytes */

    bool began;     /* a body is arriving */
    bool wanted;    /* and goes into the part */
    size_t dropped; /* bytes of one that is not */
    bool too_large, was_private, unwritten;
};

/* What came of an exchange. */
enum transfer_next { TRANSFER_ENDED, TRANSFER_AGAIN /* at another URL: transfer_start */ };
struct transfer_result {
    enum download_outcome outcome;
    char reason[DOWNLOAD_REASON_MAX];
    long retry_after_s; /* what the server asks for; 0: nothing */
};

/* Begins with a part that is open and empty (fd is the caller's). url is copied. -BL_ENOMEM. */
int transfer_open(struct transfer *t, const struct transfer_options *options, const char *url,
                  int fd, struct bl_error *err);
/* Sets up t->easy for its URL, to continue after what the part holds where that may be done. Its private pointer is left alone. */
int transfer_start(struct transfer *t, struct bl_error *err);
/* Once libcurl is done with t->easy. TRANSFER_AGAIN: a redirect; *ret is not set. */
enum transfer_next transfer_end(struct transfer *t, CURLcode code, struct transfer_result *ret);
/* Back to the first URL for another try; a part that cannot be continued begins anew. */
int transfer_rewind(struct transfer *t, const char *url, struct bl_error *err);
void transfer_release(struct transfer *t);
