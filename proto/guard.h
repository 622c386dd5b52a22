/* proto/guard.h - what strangers may cost at a socket that listens. ZeroMQ bounds the size of a frame and the number of whole
 * messages that wait, but neither the number of connections nor of a message's frames; so the connections are counted here, and
 * the bytes that the kernel has received on each. A connection is a stranger's until the program says whose it is (on the
 * control socket after an accepted Hello, on a data socket after a batch of the run); what is too much is closed.
 *
 * A connection is known by its descriptor, as ZeroMQ's events and messages tell it. ZeroMQ closes it in a thread of its own, so
 * before one is closed here, its two ends are compared with what they were.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define GUARD_CHECK_MS 10
#define GUARD_ADDRESS_MAX 46 /* of IPv6 */

struct guard_limits {
    uint32_t strangers;  /* connections; beyond, the oldest goes */
    uint64_t each;       /* bytes that a stranger may have sent */
    uint64_t together;   /* bytes of all strangers; beyond, the oldest goes */
    uint64_t incomplete; /* bytes that anybody may send without completing a message */
};

struct guard;

/* *ret is the caller's. */
int guard_new(const struct guard_limits *limits, struct guard **ret, struct bl_error *err);
/* NULL is fine; sets *guard to NULL. */
void guard_free(struct guard **guard);
void guard_allow(struct guard *guard, const struct guard_limits *limits);

/* What ZeroMQ tells: a connection came; it is gone (false: it was a stranger's); a whole message
 * of that address came on it (false: the descriptor is another connection's by now). */
void guard_accepted(struct guard *guard, int fd);
bool guard_gone(struct guard *guard, int fd);
bool guard_heard(struct guard *guard, int fd, const char *address);
/* What the program tells: it knows whose the connection is, or no more; it wants no more of it. */
void guard_know(struct guard *guard, int fd, bool known);
void guard_cut(struct guard *guard, int fd);
/* The address at the connection's other end; "?": not known. And was it closed by us? */
const char *guard_address(const struct guard *guard, int fd);
bool guard_was_cut(const struct guard *guard, int fd);

/* Closes what is too much. To be called every GUARD_CHECK_MS while there are strangers, else ten times more rarely; now_ms
 * counts up. */
void guard_check(struct guard *guard, uint64_t now_ms);
bool guard_has_strangers(const struct guard *guard);
