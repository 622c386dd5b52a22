/* common/http/http.c - see http.h. */
#include "common/http/http.h"

#include <stdio.h>
#include <stdlib.h>

enum { SLOW_BYTES_S = 1000 };

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* libcurl reads no variable for these. */
static void set_authorities(CURL *e)
{
    const char *file = setting("CURL_CA_BUNDLE"), *folder = file ? NULL : setting("SSL_CERT_DIR");
    if (!file)
        file = setting("SSL_CERT_FILE");
    if (file)
        curl_easy_setopt(e, CURLOPT_CAINFO, file);
    if (folder)
        curl_easy_setopt(e, CURLOPT_CAPATH, folder);
}

int http_prepare(CURL *e, const char *url, const char *schemes, long timeout_s, char *error,
                 struct bl_error *err)
{
    char *private = NULL;
    curl_easy_getinfo(e, CURLINFO_PRIVATE, &private);
    curl_easy_reset(e);
    if (curl_easy_setopt(e, CURLOPT_URL, url) != CURLE_OK)
        return bl_fail(err, BL_ENOMEM, "no memory for a download");
    curl_easy_setopt(e, CURLOPT_PRIVATE, private);
    *error = 0;
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, error);
    set_authorities(e);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, schemes);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "blipren/" BLIPREN_VERSION);
    curl_easy_setopt(e, CURLOPT_ACCEPT_ENCODING, "identity"); /* what comes encoded is decoded */
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, timeout_s);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES_S);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, timeout_s);
    return 0;
}

long http_status(CURL *easy)
{
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

const char *http_header(CURL *easy, const char *name)
{
    struct curl_header *found;
    return curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &found) == CURLHE_OK ? found->value
                                                                                  : NULL;
}

static enum http_end judge_status(long status)
{
    if (status == 404 || status == 410)
        return HTTP_GONE;
    if (status == 408 || status == 425 || status == 429 || status >= 500)
        return HTTP_BUSY;
    return status == 416 || status == 206 ? HTTP_OTHER_RANGE : HTTP_REFUSED;
}

static enum http_end judge_code(CURLcode code, bool began)
{
    switch (code) {
    case CURLE_OK:
        return HTTP_DONE;
    case CURLE_OPERATION_TIMEDOUT:
        return HTTP_TIMED_OUT;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return HTTP_REFUSED;
    case CURLE_FILE_COULDNT_READ_FILE:
        return HTTP_GONE;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        return HTTP_UNTRUSTED;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
        return HTTP_UNREACHABLE;
    default:
        return began ? HTTP_CUT_OFF : HTTP_UNREACHABLE;
    }
}

enum http_end http_judge(CURL *easy, CURLcode code, const char *error, bool began, bool wanted_part,
                         char *ret_reason, size_t size, long *ret_wait_s)
{
    long status = http_status(easy);
    curl_off_t wait_s = 0;
    *ret_wait_s = 0;
    if (status && (status < 200 || status > 299 || (status == 206 && !wanted_part))) {
        curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &wait_s);
        *ret_wait_s = (long)wait_s;
        snprintf(ret_reason, size, "HTTP %ld", status);
        return judge_status(status);
    }
    snprintf(ret_reason, size, "%s", *error ? error : curl_easy_strerror(code));
    return judge_code(code, began);
}
