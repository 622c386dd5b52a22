/* common/hub/client.h - what is asked of the Hub: which commit a revision is, which files it has, a file's bytes. Private to
 * common/hub. */
#pragma once

#include <curl/curl.h>

#include "common/hub/pull.h"

struct hub_client {
    const struct hub_pull_options *options;
    CURL *easy;
    char error[CURL_ERROR_SIZE]; /* libcurl's words */
    struct curl_slist *headers;  /* the token's */
    char endpoint[512], token[512];
};

struct hub_file {
    char *path; /* in the repository: relative, no "." or ".." in it */
    uint64_t size;
    char etag[65]; /* 64 digits: SHA-256; 40: of a git blob */
};
struct hub_files {
    struct hub_file *at;
    size_t count, capacity;
};
void hub_files_release(struct hub_files *files);

/* Reads the environment. */
int hub_client_open(const struct hub_pull_options *options, struct hub_client *ret,
                    struct bl_error *err);
void hub_client_close(struct hub_client *client);

/* The commit that a revision is. */
int hub_client_commit(struct hub_client *client, const struct hub_id *id, char ret[41],
                      struct bl_error *err);
/* All files of a commit. *ret is the caller's. */
int hub_client_files(struct hub_client *client, const struct hub_id *id, const char *commit,
                     struct hub_files *ret, struct bl_error *err);

/* Takes the next bytes of a file; false: they cannot be taken. */
typedef bool hub_take(void *context, const void *data, size_t size);
/* The file's bytes from *at on, which grows by each of them; where the server sends all of them instead, restart is called and
 * *at is 0 again. -BL_EIO. */
int hub_client_read(struct hub_client *client, const struct hub_id *id, const char *commit,
                    const struct hub_file *file, uint64_t *at, hub_take *take,
                    bool (*restart)(void *context), void *context, struct bl_error *err);
