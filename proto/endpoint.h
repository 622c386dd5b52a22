/* proto/endpoint.h - tcp://HOST:PORT. HOST is a name or an IPv4 address; to bind, also an interface
 * ("eth0") or "*" for all of them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define BL_ENDPOINT_MAX 280 /* tcp://, a name of 253 bytes (RFC 1035), a port, NUL */

struct bl_endpoint {
    char host[254];
    uint16_t port; /* 0: any free one (bind only) */
};

enum bl_endpoint_use { BL_ENDPOINT_CONNECT, BL_ENDPOINT_BIND };

/* -BL_EPROTO: text is no endpoint for that use. ret may be NULL. */
int bl_endpoint_parse(const char *text, enum bl_endpoint_use use, struct bl_endpoint *ret,
                      struct bl_error *err);
void bl_endpoint_format(const struct bl_endpoint *endpoint, char ret[BL_ENDPOINT_MAX]);

/* 127.0.0.0/8, localhost, lo. A name that only happens to resolve to loopback does not count. */
bool bl_endpoint_is_loopback(const struct bl_endpoint *endpoint);
/* Nothing is encrypted or authenticated yet: -BL_ECONFIG for an endpoint beyond loopback, unless
 * `insecure` says that this is known. */
int bl_endpoint_allow(const struct bl_endpoint *endpoint, bool insecure, struct bl_error *err);
