/* common/hub/hub.h - repositories of the Hugging Face Hub, by their names, in the local cache that transformers, datasets and
 * BLIPren share. Nothing here asks the Hub: pull.h does.
 *
 *   CACHE/models--OWNER--NAME/      (datasets--OWNER--NAME)
 *     refs/REVISION                 the commit that a branch or tag was when it was last asked for
 *     snapshots/COMMIT/PATH         a link to the blob
 *     blobs/ETAG                    a file's content: its SHA-256 (LFS), else its hash as a git blob
 *   CACHE/.locks/models--OWNER--NAME/ETAG.lock
 *
 * CACHE is $HF_HUB_CACHE, else $HF_HOME/hub, else huggingface/hub in the user's cache. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

enum hub_kind { HUB_NONE, HUB_MODEL, HUB_DATASET };

#define HUB_NAME_MAX 97
#define HUB_REVISION_MAX 128

struct hub_id {
    enum hub_kind kind;
    char name[HUB_NAME_MAX];         /* "owner/name" */
    char revision[HUB_REVISION_MAX]; /* a branch, a tag or a commit; "main" where none is given */
};

/* "owner/name" or "owner/name@revision"; false: it is none. */
bool hub_id_parse(const char *text, enum hub_kind kind, struct hub_id *ret);
/* Is it a commit, 40 hexadecimal digits? */
bool hub_is_commit(const char *revision);

/* "HOME/below", HOME being $HF_HOME or huggingface in the user's cache. False: nothing says where it is, or it does not fit. */
bool hub_home(const char *below, char *ret, size_t size);
/* The cache's folder. -BL_ECONFIG: nothing says where it is; -BL_ELIMIT. */
int hub_cache(char *ret, size_t size, struct bl_error *err);
/* A repository's folder in it. */
int hub_repository(const struct hub_id *id, char *ret, size_t size, struct bl_error *err);
/* The snapshot of a repository's revision, if it is in the cache and, of a model, has config.json and all weights. */
bool hub_find(const struct hub_id *id, char *ret, size_t size);
/* "owner/name@commit" of a snapshot's folder in the cache; false: it is none. */
bool hub_name(const char *folder, char *ret, size_t size);

/* HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: the Hub is not to be asked. */
bool hub_is_offline(void);

/* -BL_EIO of a path that names a repository which is not in the cache, and says how to get it; 0 of any other. */
int hub_refuse_missing(const char *path, struct bl_error *err);
