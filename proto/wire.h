/* proto/wire.h - bytes to checked messages and back. What a message means is the programs' business; that it is well formed
 * is this file's: after unpacking, every enum is known, every number and length within common/limits.h, every text UTF-8,
 * and the bytes are exactly those that packing gives, so that nothing was said twice or cut. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "proto/blipren.pb-c.h"
#include "common/error.h"
#include "proto/socket.h"

/* A routing id that no other connection has: the process's incarnation and the number of its connection. */
struct wire_id wire_id_make(uint64_t incarnation, uint64_t link);

/* Random, not zero. */
uint64_t wire_incarnation(void);

/* *ret is the caller's (free). */
void wire_pack(const Blipren__Envelope *envelope, uint8_t **ret, size_t *ret_size);
/* -BL_EPROTO names the field. *ret is the caller's (wire_envelope_free), NULL on failure. Of another version of the protocol
 * only Hello and Refuse are given out, and nothing in them is checked: they must be answered, or shown. */
int wire_unpack(const void *data, size_t size, Blipren__Envelope **ret, struct bl_error *err);
/* The same of a message as it came, which is one frame. */
int wire_unpack_frames(struct wire_frames *frames, Blipren__Envelope **ret, struct bl_error *err);
void wire_envelope_free(Blipren__Envelope **envelope);

/* Declares an envelope around one body: WIRE_ENVELOPE(e, HELLO, hello) = &hello; */
#define WIRE_ENVELOPE(name, BODY, member)                                                          \
    Blipren__Envelope name = BLIPREN__ENVELOPE__INIT;                                              \
    name.body_case = BLIPREN__ENVELOPE__BODY_##BODY;                                               \
    name.member

void wire_pack_header(const Blipren__BatchHeader *header, uint8_t **ret, size_t *ret_size);
int wire_unpack_header(const void *data, size_t size, Blipren__BatchHeader **ret,
                       struct bl_error *err);
void wire_header_free(Blipren__BatchHeader **header);

/* Makes text fit for a message, in place: what is not UTF-8 becomes '?'. File names and the operating system's messages may
 * hold anything. */
void wire_text(char *text);

/* "Hello", "Assignment": for logs. */
const char *wire_body_name(const Blipren__Envelope *envelope);
