/* loader/download/address.h - which addresses are of this host or of a network behind it, where a redirect from outside has no
 * business. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

/* Loopback, private, link-local, shared, multicast, reserved and unspecified addresses (IANA's special-purpose registries), IPv4
 * inside IPv6 included. Of another family: true. */
bool address_is_private(const struct sockaddr *address);
/* The same of a text such as "127.0.0.1" or "::1"; true of what is no address. */
bool address_text_is_private(const char *text);
/* Of a URL's host, "[::1]" too; false of a name, for which somebody must be asked. */
bool address_literal_is_private(const char *host);
