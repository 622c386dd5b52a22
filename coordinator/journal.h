/* coordinator/journal.h - RUN/journal: what the coordinator decided, one record a line, on disk before it counts.
 *
 * A line is a JSON object, a tab and 16 hexadecimal digits (FNV-1a 64 of the object's text). Lines that are synced together have one
 * number, `batch`, and the next batch is written after that; so of a torn batch nothing was ever acknowledged from the first
 * damaged line on, and it is cut off there. A damaged line of an earlier batch is an error. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "coordinator/ledger.h"

struct journal;

/* Called for every whole record, oldest first; a failure ends the reading and is passed on. */
typedef int journal_reader(void *context, const struct coord_record *record, struct bl_error *err);
/* Called on the writing thread: all records up to seq are on disk, or err says why nothing more will be. */
typedef void journal_written(void *context, uint64_t seq, const struct bl_error *err);

/* Reads RUN/journal (absent: none), cuts a torn end off and starts the writing thread. */
int journal_open(const char *run_folder, journal_reader *reader, journal_written *written,
                 void *context, struct journal **ret, struct bl_error *err);
/* Queues a record; one sync serves all that wait. */
void journal_append(struct journal *journal, uint64_t seq, const struct coord_record *record);
/* Writes what is queued, then stops. */
void journal_close(struct journal **journal);
