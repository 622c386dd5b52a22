/* loader/download/transfer.c - see transfer.h. */
#include "loader/download/transfer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/http/http.h"
#include "common/image/image.h"
#include "common/progress.h"
#include "common/size.h"
#include "loader/download/address.h"

enum {
    HOPS_MAX = 5,
    WHOLE_TIMEOUTS = 30,   /* an exchange may take so many times timeout_s */
    DROPPED_MAX = 64 << 10 /* of an error's page, so that the connection can be used again */
};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "no memory for a download");
}

/* -- the part --------------------------------------------------------------------------------- */

static bool empty_part(struct transfer *t)
{
    free(t->validator);
    t->validator = NULL;
    t->size = 0;
    bl_sha256_release(&t->hash);
    bl_sha256_begin(&t->hash);
    return ftruncate(t->fd, 0) == 0;
}

/* A strong ETag, else the time of the last change: either tells whether two answers are of the same bytes. */
static void keep_validator(struct transfer *t)
{
    const char *tag = http_header(t->easy, "ETag");
    const char *found = tag && strncmp(tag, "W/", 2) ? tag : http_header(t->easy, "Last-Modified");
    free(t->validator);
    t->validator = found && !http_header(t->easy, "Content-Encoding") ? strdup(found) : NULL;
}

/* Whether the answer's body continues where the part ends. */
static bool goes_on(const struct transfer *t)
{
    unsigned long long from;
    const char *range = http_header(t->easy, "Content-Range");
    return http_status(t->easy) == 206 && range && sscanf(range, "bytes %llu-", &from) == 1 &&
           from == t->size;
}

/* The first bytes of a body. */
static void begin(struct transfer *t)
{
    long status = http_status(t->easy);
    t->began = true;
    if (status && (status < 200 || status > 299))
        return;
    if (t->size && goes_on(t)) {
        t->wanted = true;
        return;
    }
    if (status == 206)
        return;
    t->wanted = true;
    t->unwritten = !empty_part(t);
    keep_validator(t);
}

static bool write_part(struct transfer *t, const char *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(t->fd, data + done, size - done, (off_t)(t->size + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static size_t take_bytes(char *data, size_t one, size_t size, void *transfer)
{
    struct transfer *t = transfer;
    bl_progress_add(1);
    if (!t->began)
        begin(t);
    if (!t->wanted)
        return (t->dropped += size) <= DROPPED_MAX ? size : 0;
    if (size > t->options->image_bytes_max - t->size) {
        t->too_large = true;
        return 0;
    }
    if (t->unwritten || !write_part(t, data, size)) {
        t->unwritten = true;
        return 0;
    }
    if (t->size < sizeof t->start)
        memcpy(t->start + t->size, data,
               size < sizeof t->start - t->size ? size : sizeof t->start - t->size);
    bl_sha256_add(&t->hash, data, size);
    t->size += size;
    return size;
}

/* -- addresses -------------------------------------------------------------------------------- */

/* The first URL is the user's, and so are the proxies; where it redirects to is the server's. */
static bool may_connect(struct transfer *t, bool is_private)
{
    t->was_private = t->hops && is_private && !t->options->private_redirects;
    return !t->was_private;
}

static curl_socket_t open_socket(void *transfer, curlsocktype purpose, struct curl_sockaddr *a)
{
    const struct transfer *t = transfer;
    bool is_private = !proxies_have(&t->options->proxies, &a->addr) && address_is_private(&a->addr);
    return may_connect(transfer, is_private)
               ? socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol)
               : CURL_SOCKET_BAD;
}

/* Of a connection that is kept open no socket is opened. */
static int before_request(void *transfer, char *to, char *from, int to_port, int from_port)
{
    const struct transfer *t = transfer;
    bool is_private =
        !proxies_have_text(&t->options->proxies, to, to_port) && address_text_is_private(to);
    return may_connect(transfer, is_private) ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

/* -- the exchange ----------------------------------------------------------------------------- */

int transfer_open(struct transfer *t, const struct transfer_options *options, const char *url,
                  int fd, struct bl_error *err)
{
    *t = (struct transfer){.options = options, .fd = fd, .easy = curl_easy_init()};
    t->url = strdup(url);
    bl_sha256_begin(&t->hash);
    return t->easy && t->url ? 0 : fail_nomem(err);
}

void transfer_release(struct transfer *t)
{
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    bl_sha256_release(&t->hash);
    free(t->url);
    free(t->validator);
    *t = (struct transfer){.fd = -1};
}

/* What makes a server send the rest alone, if it still has the same bytes. */
static int ask_for_rest(struct transfer *t, struct bl_error *err)
{
    char range[32];
    bl_autofree char *condition = NULL;
    snprintf(range, sizeof range, "%llu-", (unsigned long long)t->size);
    if (asprintf(&condition, "If-Range: %s", t->validator) < 0) {
        condition = NULL;
        return fail_nomem(err);
    }
    t->headers = curl_slist_append(NULL, condition);
    if (!t->headers || curl_easy_setopt(t->easy, CURLOPT_RANGE, range) != CURLE_OK)
        return fail_nomem(err);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    return 0;
}

int transfer_start(struct transfer *t, struct bl_error *err)
{
    CURL *e = t->easy;
    BL_TRY(http_prepare(e, t->url, t->hops ? "http,https" : "http,https,file",
                        t->options->timeout_s, t->error, err));
    curl_slist_free_all(t->headers);
    t->headers = NULL;
    t->dropped = 0;
    t->began = t->wanted = t->too_large = t->was_private = t->unwritten = false;
    curl_easy_setopt(e, CURLOPT_TIMEOUT, t->options->timeout_s * WHOLE_TIMEOUTS);
    curl_easy_setopt(e, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)t->options->image_bytes_max);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, t);
    curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, before_request);
    curl_easy_setopt(e, CURLOPT_PREREQDATA, t);
    return t->size && t->validator ? ask_for_rest(t, err) : 0;
}

int transfer_rewind(struct transfer *t, const char *url, struct bl_error *err)
{
    char *copy = strdup(url);
    if (!copy)
        return fail_nomem(err);
    free(t->url);
    t->url = copy;
    t->hops = 0;
    if (!t->validator && !empty_part(t))
        return bl_fail_errno(err, "a part of the cache cannot be written");
    return 0;
}

/* -- what it means ---------------------------------------------------------------------------- */

static void set(struct transfer_result *ret, enum download_outcome outcome, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void set(struct transfer_result *ret, enum download_outcome outcome, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    ret->outcome = outcome;
    vsnprintf(ret->reason, sizeof ret->reason, format, arguments);
    va_end(arguments);
}

#define PRIVATE_WORDS "redirected to a private address (data.private_redirects)"

/* Whether a URL names a private address by its number: through a proxy nobody here sees where it leads. */
static bool names_private_address(const char *url)
{
    char *host = NULL;
    CURLU *parts = curl_url();
    bool found = parts && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
                 curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                 address_literal_is_private(host);
    curl_free(host);
    curl_url_cleanup(parts);
    return found;
}

/* Follows a redirect: true. What was asked for by https is not taken by http. */
static bool redirect(struct transfer *t, struct transfer_result *ret)
{
    char *to = NULL;
    curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &to);
    bool secure = !strncasecmp(t->url, "https://", 8);
    if (!to || ((secure || strncasecmp(to, "http://", 7)) && strncasecmp(to, "https://", 8))) {
        set(ret, DOWNLOAD_REDIRECTED, "redirected%s to %.80s", secure ? " from https" : "",
            to ? to : "nothing");
        return false;
    }
    if (!t->options->private_redirects && names_private_address(to)) {
        set(ret, DOWNLOAD_REDIRECTED, PRIVATE_WORDS);
        return false;
    }
    if (t->hops == HOPS_MAX) {
        set(ret, DOWNLOAD_REDIRECTED, "more than %d redirects", HOPS_MAX);
        return false;
    }
    char *copy = strdup(to);
    if (!copy) {
        set(ret, DOWNLOAD_CUT_OFF, "no memory for a redirect");
        return false;
    }
    free(t->url);
    t->url = copy;
    t->hops++;
    return true;
}

/* Does a file end as its format ends? True of formats that do not tell. */
static bool has_end(const struct transfer *t)
{
    char tail[64] = "";
    const uint8_t *start = (const uint8_t *)t->start;
    size_t size = (size_t)bl_min((int64_t)t->size, sizeof tail);
    if (pread(t->fd, tail, size, (off_t)(t->size - size)) != (ssize_t)size)
        return false;
    if (start[0] == 0xff && start[1] == 0xd8)
        return memmem(tail, size, "\xff\xd9", 2) != NULL;
    if (!memcmp(start, "\x89PNG", 4))
        return memmem(tail, size, "IEND", 4) != NULL;
    if (!memcmp(start, "RIFF", 4))
        return t->size >= 8 + (start[4] | (uint64_t)start[5] << 8 | (uint64_t)start[6] << 16 |
                               (uint64_t)start[7] << 24);
    return true;
}

/* A body whose end is the connection's end may have been cut off. */
static bool told_its_end(const struct transfer *t)
{
    curl_off_t length = -1;
    curl_easy_getinfo(t->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    return length >= 0 || http_header(t->easy, "Transfer-Encoding") || has_end(t);
}

/* Of a body that does not tell its end, the same bytes twice are taken for whole. */
static bool digest(struct transfer *t)
{
    uint8_t digest[32];
    bool whole = told_its_end(t);
    bl_sha256_end(&t->hash, digest);
    whole |= t->digested && !memcmp(digest, t->digest, sizeof digest);
    memcpy(t->digest, digest, sizeof digest);
    t->digested = true;
    free(t->validator);
    t->validator = NULL; /* the next try begins anew */
    return whole;
}

static void judge_body(struct transfer *t, struct transfer_result *ret)
{
    if (!t->size)
        set(ret, DOWNLOAD_NOT_IMAGE, "an empty file");
    else if (!image_recognised((const uint8_t *)t->start,
                               (size_t)bl_min((int64_t)t->size, sizeof t->start)))
        set(ret, DOWNLOAD_NOT_IMAGE, "not an image%s%.40s",
            http_header(t->easy, "Content-Type") ? ": " : "",
            http_header(t->easy, "Content-Type") ? http_header(t->easy, "Content-Type") : "");
    else if (digest(t))
        set(ret, DOWNLOAD_FETCHED, "%llu bytes", (unsigned long long)t->size);
    else
        set(ret, DOWNLOAD_CUT_OFF, "the connection ended before the image");
}

static void judge_answer(struct transfer *t, CURLcode code, struct transfer_result *ret)
{
    static const enum download_outcome outcomes[] = {
        [HTTP_GONE] = DOWNLOAD_GONE,           [HTTP_REFUSED] = DOWNLOAD_REFUSED,
        [HTTP_OTHER_RANGE] = DOWNLOAD_CUT_OFF, [HTTP_BUSY] = DOWNLOAD_BUSY,
        [HTTP_TIMED_OUT] = DOWNLOAD_TIMED_OUT, [HTTP_UNREACHABLE] = DOWNLOAD_UNREACHABLE,
        [HTTP_CUT_OFF] = DOWNLOAD_CUT_OFF,     [HTTP_UNTRUSTED] = DOWNLOAD_UNTRUSTED,
    };
    enum http_end end = http_judge(t->easy, code, t->error, t->began, t->wanted, ret->reason,
                                   sizeof ret->reason, &ret->retry_after_s);
    if (end == HTTP_DONE)
        return judge_body(t, ret);
    if (end == HTTP_OTHER_RANGE)
        empty_part(t);
    ret->outcome = outcomes[end];
}

enum transfer_next transfer_end(struct transfer *t, CURLcode code, struct transfer_result *ret)
{
    long status = http_status(t->easy);
    *ret = (struct transfer_result){0};
    if (t->was_private)
        set(ret, DOWNLOAD_REDIRECTED, PRIVATE_WORDS);
    else if (status >= 300 && status < 400 && status != 304)
        return redirect(t, ret) ? TRANSFER_AGAIN : TRANSFER_ENDED;
    else if (t->too_large || (code == CURLE_FILESIZE_EXCEEDED && status < 300))
        set(ret, DOWNLOAD_TOO_LARGE, "more than %llu bytes",
            (unsigned long long)t->options->image_bytes_max);
    else if (t->unwritten)
        set(ret, DOWNLOAD_UNWRITTEN, "%s", strerror(ENOSPC));
    else
        judge_answer(t, code, ret);
    return TRANSFER_ENDED;
}
