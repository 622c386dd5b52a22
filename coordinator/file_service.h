/* coordinator/file_service.h - the run folder's files for peers that do not see it (proto/files.proto): a thread with a socket, and a
 * ZeroMQ context, of its own, so that however many gigabytes travel, the control loop and its heartbeats do not wait.
 *
 * Who asks must know the token of Welcome. It can read config.yaml, dataset.index and the files of checkpoints, and write only the files of a
 * checkpoint that it was asked to save. A checkpoint appears complete or not at all. Memory: a piece, and BL_PIECES_AHEAD of them
 * for each peer that has asked for so many. */
#pragma once

#include <stdint.h>

#include "common/data/run.h"
#include "common/error.h"
#include "common/limits.h"

struct file_service;

struct file_service_options {
    const char *run_folder; /* borrowed */
    const char *endpoint;   /* tcp://ADDRESS:PORT to listen at; PORT 0: any */
    const char *keys;       /* folder of the cluster's keys; NULL: none */
    uint8_t run[RUN_ID_BYTES], token[BL_TOKEN_BYTES];
    uint64_t incarnation; /* of the coordinator, for envelopes */
};

/* Listens, and starts the thread. *ret is the caller's. */
int file_service_open(const struct file_service_options *options, struct file_service **ret,
                      uint16_t *ret_port, struct bl_error *err);
/* Ends the thread, after what it does at the moment. NULL is fine. */
void file_service_close(struct file_service **service);

/* The peer is asked to save that checkpoint: it may send its files. What it has not finished of earlier ones goes. NULL is fine. */
void file_service_permit(struct file_service *service, uint64_t peer, const char *checkpoint);
/* The peer is gone, and what it has not finished goes too. NULL is fine. */
void file_service_withdraw(struct file_service *service, uint64_t peer);
