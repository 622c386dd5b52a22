/* proto/check.h - what wire.c asks of every message before it gives it out, and nobody else. */
#pragma once

#include <stddef.h>

#include "proto/blipren.pb-c.h"
#include "common/error.h"

/* In all fields, of the message and those in it: texts are UTF-8, enums have known values, nothing
 * is of a field unknown here. -BL_EPROTO with the field as key. */
int check_fields(const ProtobufCMessage *message, struct bl_error *err);

/* Whether the bytes are those that packing the message gives. It was unpacked from them; where they
 * differ, a field was repeated, a number written too long, or a text had a NUL and is cut now. */
int check_canonical(const ProtobufCMessage *message, const void *data, size_t size,
                    struct bl_error *err);

/* Every number, size and count is in its range. */
int check_envelope(const Blipren__Envelope *envelope, struct bl_error *err);
int check_header(const Blipren__BatchHeader *header, struct bl_error *err);
