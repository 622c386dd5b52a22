/* proto/wire.h - bytes to checked messages and back. What a message means is the programs' business; that it is well formed
 * is this file's: after unpacking, every enum is in range, every length within common/limits.h, every text UTF-8. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "blipren.pb-c.h"
#include "common/error.h"
#include "proto/socket.h"

#define WIRE_RUN_BYTES 16

/* A routing id that no other connection has: the process's incarnation and the number of its connection. */
struct wire_id wire_id_make(uint64_t incarnation, uint64_t link);

/* Random, not zero. */
uint64_t wire_incarnation(void);

/* *ret is the caller's (free). */
void wire_pack(const Blipren__Envelope *envelope, uint8_t **ret, size_t *ret_size);
/* -BL_EPROTO names the field. *ret is the caller's (wire_envelope_free). The protocol's version is not compared: a Hello of
 * another version must be answered. */
int wire_unpack(const void *data, size_t size, Blipren__Envelope **ret, struct bl_error *err);
void wire_envelope_free(Blipren__Envelope **envelope);

void wire_pack_header(const Blipren__BatchHeader *header, uint8_t **ret, size_t *ret_size);
int wire_unpack_header(const void *data, size_t size, Blipren__BatchHeader **ret,
                       struct bl_error *err);
void wire_header_free(Blipren__BatchHeader **header);

/* Makes text fit for a message, in place: what is not UTF-8 becomes '?'. File names and the operating system's messages may
 * hold anything. */
void wire_text(char *text);

/* "Hello", "Order": for logs. */
const char *wire_body_name(const Blipren__Envelope *envelope);
