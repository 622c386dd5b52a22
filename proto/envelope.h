/* proto/envelope.h - control messages as bytes. What decode gives out is whole and within every
 * limit of common/limits.h: texts are UTF-8, enums known, sizes and counts in range, endpoints and
 * folder names well-formed, and the bytes are exactly what our encoder would have written (so no
 * unknown or repeated field, no second body, no NUL inside a text). */
#pragma once

#include <stdint.h>

#include "blipren.pb-c.h"
#include "common/error.h"
#include "proto/socket.h"

#define BL_RUN_ID_BYTES 16

enum bl_sender { BL_FROM_PEER, BL_FROM_COORDINATOR };

struct bl_envelope_expect {
    enum bl_sender sender; /* which bodies may come */
    const uint8_t *run;    /* 16 bytes, or NULL while it is not known. A Hello has none. */
    const char *peer_name; /* who sent it, for messages */
};

/* Fails with -BL_EPROTO naming field and peer, also where message->peer is set and is not the
 * envelope's. *ret is the caller's (bl_envelope_free). */
int bl_envelope_decode(const struct bl_message *message, const struct bl_envelope_expect *expect,
                       Blipren__Envelope **ret, struct bl_error *err);
/* The same from bytes; peer 0 = any. */
int bl_envelope_parse(const void *data, size_t size, uint64_t peer,
                      const struct bl_envelope_expect *expect, Blipren__Envelope **ret,
                      struct bl_error *err);
void bl_envelope_free(Blipren__Envelope **envelope);

/* Fills in the version and encodes; *ret is the caller's to send or zmq_msg_close. What decode would
 * refuse is refused here too, so that a bug shows where it is. */
int bl_envelope_encode(Blipren__Envelope *envelope, zmq_msg_t *ret, struct bl_error *err);

/* "hello", "order", … */
const char *bl_envelope_body_name(const Blipren__Envelope *envelope);

/* Makes text fit for the wire, in place: invalid UTF-8 and control characters become '?'. File
 * names and messages of the operating system may hold anything. */
void bl_wire_text(char *text);
