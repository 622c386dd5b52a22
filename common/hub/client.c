/* common/hub/client.c - see client.h. */
#include "common/hub/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/http/http.h"
#include "common/json.h"
#include "common/limits.h"

#define DEFAULT_ENDPOINT "https://huggingface.co"

enum {
    TIMEOUT_S = 30,
    TRIES = 4,      /* in a row, none of which brought a byte */
    WAIT_S_MAX = 60 /* of what a server asks for */
};

/* -- opening ---------------------------------------------------------------------------------- */

static void trim(char *text)
{
    size_t start = strspn(text, " \t\r\n"), length = strlen(text + start);
    while (length && strchr(" \t\r\n", text[start + length - 1]))
        length--;
    memmove(text, text + start, length);
    text[length] = 0;
}

/* HF_TOKEN, else the file that logging in writes. */
static void find_token(char *ret, size_t size)
{
    char path[4096];
    bl_autofree char *text = NULL;
    size_t length;
    const char *token = getenv("HF_TOKEN"), *file = getenv("HF_TOKEN_PATH");
    *ret = 0;
    if (token && *token) {
        snprintf(ret, size, "%s", token);
        return trim(ret);
    }
    if (file && *file)
        snprintf(path, sizeof path, "%s", file);
    else if (!hub_home("/token", path, sizeof path))
        return;
    if (bl_file_read(path, size - 1, &text, &length, NULL) < 0)
        return;
    snprintf(ret, size, "%s", text);
    trim(ret);
}

int hub_client_open(const struct hub_pull_options *options, struct hub_client *ret,
                    struct bl_error *err)
{
    char header[600];
    const char *endpoint = getenv("HF_ENDPOINT");
    *ret = (struct hub_client){.options = options, .easy = curl_easy_init()};
    if (!ret->easy)
        return bl_fail(err, BL_ENOMEM, "no memory for a download");
    snprintf(ret->endpoint, sizeof ret->endpoint, "%s",
             endpoint && *endpoint ? endpoint : DEFAULT_ENDPOINT);
    while (*ret->endpoint && ret->endpoint[strlen(ret->endpoint) - 1] == '/')
        ret->endpoint[strlen(ret->endpoint) - 1] = 0;
    find_token(ret->token, sizeof ret->token);
    if (!*ret->token)
        return 0;
    snprintf(header, sizeof header, "Authorization: Bearer %s", ret->token);
    ret->headers = curl_slist_append(NULL, header);
    return ret->headers ? 0 : bl_fail(err, BL_ENOMEM, "no memory for a download");
}

void hub_client_close(struct hub_client *client)
{
    curl_easy_cleanup(client->easy);
    curl_slist_free_all(client->headers);
    *client = (struct hub_client){0};
}

/* -- an exchange ------------------------------------------------------------------------------ */

struct body {
    struct hub_client *client;
    hub_take *take;
    bool (*restart)(void *context);
    void *context;
    uint64_t asked; /* from where */
    uint64_t *at;
    bool began, wanted, refused;
};

/* The first bytes of an answer's body: those that were asked for? */
static bool begin(struct body *b)
{
    CURL *easy = b->client->easy;
    unsigned long long from;
    long status = http_status(easy);
    const char *range = http_header(easy, "Content-Range");
    b->began = true;
    b->wanted = status == 200 || (status == 206 && range && b->asked &&
                                  sscanf(range, "bytes %llu-", &from) == 1 && from == b->asked);
    if (status != 200 || !b->asked)
        return true;
    *b->at = 0;
    return b->restart(b->context);
}

static size_t take_bytes(char *data, size_t one, size_t size, void *body)
{
    struct body *b = body;
    if (!b->began && !begin(b))
        b->refused = true;
    if (!b->wanted)
        return size; /* an error's page */
    if (b->refused || !b->take(b->context, data, size)) {
        b->refused = true;
        return 0;
    }
    *b->at += size;
    return size;
}

/* libcurl leaves the token out where it is redirected to another host. */
static int exchange(struct body *b, const char *url, CURLcode *ret, struct bl_error *err)
{
    CURL *easy = b->client->easy;
    char range[32];
    bool secure = !strncmp(b->client->endpoint, "https:", 6);
    const char *schemes = secure ? "https" : "http,https";
    BL_TRY(http_prepare(easy, url, schemes, TIMEOUT_S, b->client->error, err));
    snprintf(range, sizeof range, "%llu-", (unsigned long long)*b->at);
    b->asked = *b->at;
    b->began = b->wanted = b->refused = false;
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, schemes);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, b->client->headers);
    curl_easy_setopt(easy, CURLOPT_RANGE, *b->at ? range : NULL);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, b);
    *ret = curl_easy_perform(easy);
    return 0;
}

/* -- failures --------------------------------------------------------------------------------- */

static const char *kind_words(enum hub_kind kind)
{
    return kind == HUB_DATASET ? "data set" : "model";
}

static int fail_gated(const struct hub_client *client, const struct hub_id *id,
                      struct bl_error *err)
{
    bl_fail(err, BL_EIO, "the %s is gated: its owner grants access%s", kind_words(id->kind),
            *client->token ? ", and has not granted it to this token's account" : "");
    return bl_error_remedy(
        err,
        "ask for access at %.100s/%s%s, logged in; then set HF_TOKEN to a token of "
        "that account",
        client->endpoint, id->kind == HUB_DATASET ? "datasets/" : "", id->name);
}

/* An answer that no other try would change. */
static int fail_answer(const struct hub_client *client, const struct hub_id *id, const char *reason,
                       struct bl_error *err)
{
    long status = http_status(client->easy);
    const char *found = http_header(client->easy, "X-Error-Code"), *code = found ? found : "";
    if (!strcmp(code, "GatedRepo"))
        return fail_gated(client, id, err);
    if (!strcmp(code, "RevisionNotFound")) {
        bl_fail(err, BL_EIO, "the %s has no revision %s", kind_words(id->kind), id->revision);
        return bl_error_remedy(err, "give a branch, a tag or a commit of it behind the @");
    }
    if (!strcmp(code, "RepoNotFound") || status == 401 || status == 404) {
        bl_fail(
            err, BL_EIO,
            "no file or folder of this name is here, and the Hub has no %s of it that %s may see",
            kind_words(id->kind), *client->token ? "this token" : "everybody");
        return bl_error_remedy(err, "if a folder is meant, check the path; else the name: a "
                                    "private one needs HF_TOKEN");
    }
    char *to = NULL; /* where a redirect would have led */
    curl_easy_getinfo(client->easy, CURLINFO_EFFECTIVE_URL, &to);
    if (status / 100 == 3 && to && !strncmp(client->endpoint, "https:", 6) &&
        strncmp(to, "https:", 6) != 0) {
        bl_fail(err, BL_EIO, "%.200s redirects to %.200s, which is not https", client->endpoint,
                to);
        return bl_error_remedy(err, "set HF_ENDPOINT to a Hub or mirror that has all by https");
    }
    bl_fail(err, BL_EIO, "%.200s answered %s", client->endpoint, reason);
    return bl_error_remedy(err, "see what the server says about this repository");
}

static int fail_untrusted(const struct hub_client *client, const char *reason, struct bl_error *err)
{
    bl_fail(err, BL_EIO, "%.200s is not trusted: %s", client->endpoint, reason);
    return bl_error_remedy(err, HTTP_TRUST_REMEDY);
}

static void pause_s(const struct hub_client *client, long s, const char *reason)
{
    char line[200];
    struct timespec wait = {.tv_sec = s};
    snprintf(line, sizeof line, "%s; trying again in %ld s", reason, s);
    client->options->say(client->options->context, line);
    nanosleep(&wait, NULL);
}

/* Reads until the body is whole, trying again where that may help. */
static int read_all(struct body *b, const struct hub_id *id, const char *url, struct bl_error *err)
{
    char reason[200];
    for (int tries = 0;;) {
        uint64_t before = *b->at;
        CURLcode code;
        long wait_s;
        BL_TRY(exchange(b, url, &code, err));
        if (b->refused)
            return bl_fail_errno(err, "what was downloaded cannot be written");
        enum http_end end = http_judge(b->client->easy, code, b->client->error, b->began, b->wanted,
                                       reason, sizeof reason, &wait_s);
        if (end == HTTP_DONE)
            return 0;
        if (end == HTTP_OTHER_RANGE && before) {
            *b->at = 0;
            if (!b->restart(b->context))
                return bl_fail_errno(err, "what was downloaded cannot be written");
            end = HTTP_CUT_OFF;
        }
        if (end == HTTP_UNTRUSTED)
            return fail_untrusted(b->client, reason, err);
        if (end < HTTP_BUSY)
            return fail_answer(b->client, id, reason, err);
        tries = *b->at > before ? 1 : tries + 1;
        if (tries == TRIES) {
            bl_fail(err, BL_EIO, "%.200s: %s, %d times in a row", b->client->endpoint, reason,
                    TRIES);
            return bl_error_remedy(
                err, "if a folder is meant, check the path: there is none of this name here; else "
                     "the same command continues, and HF_HUB_OFFLINE=1 takes what is "
                     "in the cache");
        }
        pause_s(b->client, wait_s ? (wait_s < WAIT_S_MAX ? wait_s : WAIT_S_MAX) : 1L << (tries - 1),
                reason);
    }
}

/* -- JSON ------------------------------------------------------------------------------------- */

struct text {
    char *data;
    size_t size, capacity;
};

static bool add_text(void *context, const void *data, size_t size)
{
    struct text *text = context;
    if (size > BL_JSON_BYTES_MAX - text->size ||
        !bl_grow(&text->data, &text->capacity, text->size + size, 1))
        return false;
    memcpy(text->data + text->size, data, size);
    text->size += size;
    return true;
}

static bool empty_text(void *context)
{
    ((struct text *)context)->size = 0;
    return true;
}

static int read_json(struct hub_client *client, const struct hub_id *id, const char *url,
                     json_t **ret, struct bl_error *err)
{
    struct text text = {0};
    uint64_t at = 0;
    struct body body = {
        .client = client, .take = add_text, .restart = empty_text, .context = &text, .at = &at};
    int rc = read_all(&body, id, url, err);
    if (rc == 0)
        rc = bl_json_parse(text.data ? text.data : "", text.size, ret, err);
    free(text.data);
    if (rc == -BL_EFORMAT)
        bl_error_file(err, url);
    return rc;
}

/* Percent-encodes all but unreserved characters and, where kept, "/". -BL_ELIMIT. */
static int escape(const char *text, bool keep_slash, char *ret, size_t size, struct bl_error *err)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    size_t used = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool as_is = strchr(plain, *c) || (*c == '/' && keep_slash);
        if (used + 4 > size)
            return bl_fail(err, BL_ELIMIT, "the URL of %.200s is too long", text);
        used += (size_t)snprintf(ret + used, size - used, as_is ? "%c" : "%%%02X", *c);
    }
    ret[used] = 0;
    return 0;
}

static const char *api_of(enum hub_kind kind)
{
    return kind == HUB_DATASET ? "datasets" : "models";
}

int hub_client_commit(struct hub_client *client, const struct hub_id *id, char ret[41],
                      struct bl_error *err)
{
    char url[2048], revision[3 * HUB_REVISION_MAX + 1];
    bl_autojson json_t *info = NULL;
    const char *sha = "";
    BL_TRY(escape(id->revision, false, revision, sizeof revision, err));
    snprintf(url, sizeof url, "%s/api/%s/%s/revision/%s", client->endpoint, api_of(id->kind),
             id->name, revision);
    BL_TRY(read_json(client, id, url, &info, err));
    BL_TRY(bl_json_string(info, "sha", &sha, err));
    if (!hub_is_commit(sha))
        return bl_fail(err, BL_EFORMAT, "%s: expected a commit as sha, found \"%.60s\"", url, sha);
    memcpy(ret, sha, 41);
    return 0;
}

/* -- the list of files ------------------------------------------------------------------------ */

void hub_files_release(struct hub_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->at[i].path);
    free(files->at);
    *files = (struct hub_files){0};
}

/* Relative, and stays where it is put. */
static bool is_inside(const char *path)
{
    for (const char *part = path;; part++) {
        size_t length = strcspn(part, "/");
        if (!length || (length == 1 && part[0] == '.') || (length == 2 && !memcmp(part, "..", 2)))
            return false;
        part += length;
        if (!*part)
            return strlen(path) < 1024;
    }
}

static int add_file(struct hub_files *files, const json_t *entry, struct bl_error *err)
{
    const char *path = "", *type = "", *etag = "";
    int64_t size = -1;
    const json_t *lfs = NULL;
    BL_TRY(bl_json_string(entry, "type", &type, err));
    if (strcmp(type, "file") != 0)
        return 0;
    BL_TRY(bl_json_string(entry, "path", &path, err));
    BL_TRY(bl_json_string(entry, "oid", &etag, err));
    BL_TRY(bl_json_int(entry, "size", 0, INT64_MAX, &size, err));
    BL_TRY(bl_json_container(entry, "lfs", JSON_OBJECT, &lfs, err));
    if (lfs)
        BL_TRY(bl_json_string(lfs, "oid", &etag, err));
    size_t digits = strspn(etag, "0123456789abcdef");
    if (!is_inside(path) || size < 0 || etag[digits] || digits != (lfs ? 64 : 40))
        return bl_fail(err, BL_EFORMAT, "expected a file's path, size and hash, found \"%.100s\"",
                       path);
    if (!bl_grow(&files->at, &files->capacity, files->count + 1, sizeof *files->at))
        return bl_fail(err, BL_ENOMEM, "no memory for the list of files");
    struct hub_file *file = &files->at[files->count];
    *file = (struct hub_file){.path = strdup(path), .size = (uint64_t)size};
    memcpy(file->etag, etag, digits);
    files->count += file->path != NULL;
    return file->path ? 0 : bl_fail(err, BL_ENOMEM, "no memory for the list of files");
}

/* The URL of the next page, if there is one: Link: <URL>; rel="next". It must be the endpoint's, which gets the token. */
static bool next_page(const struct hub_client *client, char *url, size_t size)
{
    const char *link = http_header(client->easy, "Link");
    const char *end = link && link[0] == '<' ? strchr(link, '>') : NULL;
    if (!end || !strstr(end, "rel=\"next\"") || (size_t)(end - link) > size ||
        strncmp(link + 1, client->endpoint, strlen(client->endpoint)) != 0)
        return false;
    snprintf(url, size, "%.*s", (int)(end - link - 1), link + 1);
    return true;
}

int hub_client_files(struct hub_client *client, const struct hub_id *id, const char *commit,
                     struct hub_files *ret, struct bl_error *err)
{
    char url[4096];
    snprintf(url, sizeof url, "%s/api/%s/%s/tree/%s?recursive=true", client->endpoint,
             api_of(id->kind), id->name, commit);
    do {
        bl_autojson json_t *page = NULL;
        size_t i;
        json_t *entry;
        BL_TRY(read_json(client, id, url, &page, err));
        json_array_foreach(page, i, entry)
        {
            int rc = add_file(ret, entry, err);
            if (rc == -BL_EFORMAT)
                bl_error_file(err, url);
            BL_TRY(rc);
        }
    } while (next_page(client, url, sizeof url));
    return 0;
}

/* -- a file ----------------------------------------------------------------------------------- */

int hub_client_read(struct hub_client *client, const struct hub_id *id, const char *commit,
                    const struct hub_file *file, uint64_t *at, hub_take *take,
                    bool (*restart)(void *context), void *context, struct bl_error *err)
{
    char url[4096], path[3072];
    struct body body = {
        .client = client, .take = take, .restart = restart, .context = context, .at = at};
    BL_TRY(escape(file->path, true, path, sizeof path, err));
    snprintf(url, sizeof url, "%s/%s%s/resolve/%s/%s", client->endpoint,
             id->kind == HUB_DATASET ? "datasets/" : "", id->name, commit, path);
    return read_all(&body, id, url, err);
}
