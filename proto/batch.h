/* proto/batch.h - data messages: a group of slots, from the loader that made it to the worker that
 * trains on it. Frame 0 is a BatchHeader, frame 1 the u8 RGB pixels of the good slots, (good, side,
 * side, 3), frame 2 their i32 little-endian token ids, one slot after the other. */
#pragma once

#include <stdint.h>

#include "blipren.pb-c.h"
#include "common/error.h"
#include "proto/socket.h"

#define BL_BATCH_FRAMES 3

/* What a worker knows of every batch that may come. */
struct bl_batch_expect {
    const uint8_t *run; /* 16 bytes */
    uint32_t image_side;
    int32_t vocabulary; /* ids are in [0, vocabulary) */
};

struct bl_batch {
    Blipren__BatchHeader *header; /* owned */
    int64_t good, tokens;         /* slots that are not bad; ids of all of them */
    const uint8_t *pixels;        /* (good, side, side, 3), in pixels_frame */
    int32_t *ids;                 /* (tokens) owned, aligned, in the machine's byte order */
    zmq_msg_t pixels_frame;       /* owned; nothing is copied */
};

/* Takes the pixels' frame out of message. -BL_EPROTO names field, or frame and sizes. *ret is the
 * caller's (bl_batch_free). */
int bl_batch_decode(struct bl_message *message, const struct bl_batch_expect *expect,
                    struct bl_batch **ret, struct bl_error *err);
void bl_batch_free(struct bl_batch **batch);

/* A header from bytes, as bl_batch_decode checks it. The caller's (bl_batch_header_free). */
int bl_batch_header_parse(const void *data, size_t size, const struct bl_batch_expect *expect,
                          Blipren__BatchHeader **ret, struct bl_error *err);
void bl_batch_header_free(Blipren__BatchHeader **header);

/* Encodes header (version filled in) and wraps pixels and ids without copying them: release(hint)
 * is called once for each of the two, from a ZeroMQ thread, when it is sent or dropped, and may
 * only do atomics. Frames are the caller's to send. On failure nothing is wrapped and release is
 * not called. */
int bl_batch_encode(Blipren__BatchHeader *header, const uint8_t *pixels, size_t pixels_size,
                    const int32_t *ids, size_t ids_size, void (*release)(void *data, void *hint),
                    void *hint, zmq_msg_t ret_frames[BL_BATCH_FRAMES], struct bl_error *err);
