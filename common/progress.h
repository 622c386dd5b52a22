/* common/progress.h - how much this process has done so far, as one number that only grows: its heartbeat carries it, so
 * that a peer which works for long is told from one that is stuck. What counts as a piece of work is up to whoever does it
 * (a MiB read, hashed or written; a tensor packed; a micro-batch computed; a bucket reduced). Any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Bytes after which reading, hashing and writing count as a piece of work. */
#define BL_PROGRESS_BYTES ((size_t)1 << 20)

void bl_progress_add(uint64_t pieces);
uint64_t bl_progress(void);

/* A thread that waits for others, in a collective, has looked for what they send: no work, but a thread that hangs does not even do
 * that. To be called several times a second. Any thread. */
void bl_progress_look(void);
uint64_t bl_progress_looks(void);
