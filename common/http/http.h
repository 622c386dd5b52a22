/* common/http/http.h - what every exchange by libcurl has in common: how it is set up, and what its end means. */
#pragma once

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

/* Resets the handle but for its private pointer, and sets its URL, the schemes allowed ("http,https"), the time-outs (to connect, and
 * without a byte or below 1 kB/s), and what is the same for all. error (CURL_ERROR_SIZE, for the exchange's life): libcurl's words
 * for a failure. Certificates are checked against the authorities of CURL_CA_BUNDLE, else of SSL_CERT_FILE and SSL_CERT_DIR, as the
 * curl program does, else the system's. Proxies are libcurl's: http_proxy, https_proxy, all_proxy, no_proxy. -BL_ENOMEM. */
int http_prepare(CURL *easy, const char *url, const char *schemes, long timeout_s, char *error,
                 struct bl_error *err);

/* Of the last answer: its status (0: none came) and a header's value (NULL: there is none; borrowed from the handle). */
long http_status(CURL *easy);
const char *http_header(CURL *easy, const char *name);

enum http_end {
    HTTP_DONE,        /* status 2xx, and the whole body */
    HTTP_GONE,        /* 404, 410, or no such file */
    HTTP_REFUSED,     /* another status, or a URL that cannot be asked for */
    HTTP_OTHER_RANGE, /* 416, or a 206 that was not asked for: what is here is not the body's start */
    HTTP_UNTRUSTED, /* the server's certificate is not that of an authority trusted here, or of another host */
    /* May pass: */
    HTTP_BUSY, /* 408, 425, 429, 5xx */
    HTTP_TIMED_OUT,
    HTTP_UNREACHABLE,
    HTTP_CUT_OFF,
};

/* Once libcurl is done with the handle. began: a body was arriving. wanted_part: 206 was asked for, and what came continues what is
 * here. reason: "HTTP 404". *ret_wait_s: what the server asks to wait for; 0: nothing. */
enum http_end http_judge(CURL *easy, CURLcode code, const char *error, bool began, bool wanted_part,
                         char *ret_reason, size_t size, long *ret_wait_s);

/* What to do about HTTP_UNTRUSTED. */
#define HTTP_TRUST_REMEDY                                                                          \
    "if that authority is to be trusted, set CURL_CA_BUNDLE to a file with its certificate, on "   \
    "each host; else check the clock and the address"
