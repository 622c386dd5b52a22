/* proto/files.h - the run folder's files on a host that does not see it: from and to the coordinator's file service, in pieces.
 *
 * A handle is shared by the loop, which says where the service is at present, and by whatever thread transfers: a transfer has a
 * connection of its own, keeps at most BL_PIECES_AHEAD pieces on their way, continues where it was when the connection breaks,
 * and waits while there is no coordinator. Every piece counts as progress. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/data/run.h"
#include "common/error.h"
#include "common/limits.h"
#include "proto/socket.h"

struct files;

/* context is borrowed. *ret is the caller's. */
int files_new(struct wire_context *context, struct files **ret, struct bl_error *err);
/* Of no transfer any more. Removes the private folder. NULL is fine. */
void files_free(struct files **files);

/* What a Welcome says. endpoint "": there is no service, everybody sees the run folder. */
struct files_place {
    char endpoint[SOCKET_ENDPOINT_MAX];
    uint8_t run[RUN_ID_BYTES], token[BL_TOKEN_BYTES];
    uint64_t peer, epoch; /* for envelopes */
    uint32_t patience_ms;
};
void files_point(struct files *files, const struct files_place *place);
/* The coordinator is lost: transfers wait for the next files_point. */
void files_wait(struct files *files);
/* Transfers end soon, with -BL_ESTOPPED, and so do those to come. */
void files_stop(struct files *files);

/* Whether a transfer is needed no more; NULL: it always is. */
struct files_need {
    bool (*over)(void *context);
    void *context;
};

/* Fetches a file of a checkpoint (its folder's name), or ("") of the run folder to `path`, complete or not at all, and compares
 * its SHA-256 where the service says it (not for a checkpoint's: its reader verifies them). The file is not synced: it is to go with its
 * process. -BL_EPEER: the service refuses, or does not answer. */
int files_get(struct files *files, const char *checkpoint, const char *file, const char *path,
              const struct files_need *need, struct bl_error *err);
/* Sends all files of `folder` as the checkpoint of that name, which Save has asked for: when this returns 0 they are in their place
 * and on the coordinator's disk. -BL_EPEER also if another coordinator has come meanwhile. */
int files_put(struct files *files, const char *checkpoint, const char *folder,
              struct bl_error *err);

/* ---- files_run.c */

/* Where this process finds the run: run_folder itself, if what is there is what the coordinator sees (RUN/token) and, if `writes`,
 * can be written to; else a private folder with what run_open needs. *ret_seen tells which. */
int files_find_run(struct files *files, const char *run_folder, bool writes, char ret_folder[4096],
                   bool *ret_seen, struct bl_error *err);
/* Removes what files_find_run has put into the private folder, once it is open. */
void files_let_go_of_run(struct files *files);
/* A folder inside the private one, in which a checkpoint is written before it is sent, or which is read after it was fetched. */
int files_checkpoint_folder(struct files *files, const char *checkpoint, char ret_folder[4096],
                            struct bl_error *err);
/* Fetches a whole checkpoint into that folder. */
int files_get_checkpoint(struct files *files, const char *checkpoint, char ret_folder[4096],
                         const struct files_need *need, struct bl_error *err);
/* Writes RUN/token, or reads whether it is this one. */
int files_write_token(const char *run_folder, const uint8_t token[BL_TOKEN_BYTES],
                      struct bl_error *err);
bool files_token_is(const char *run_folder, const uint8_t token[BL_TOKEN_BYTES]);
