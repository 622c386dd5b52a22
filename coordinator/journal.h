/* coordinator/journal.h - RUN/journal: what the coordinator decided, one record a line, on disk before it counts.
 *
 * It is a link to the journal of the newest epoch, RUN/epochs/N/journal. A coordinator that starts claims the next epoch, copies what the
 * one before has written so far, and continues in that copy; what the one before writes from then on is never read. So it has to
 * ask, once its records are on disk, whether the epoch is still its own: journal_written says which one it is (docs/protocol.md,
 * J3). A journal that is a file of its own, as older versions wrote it or a person put it there, is taken over in the same way.
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
/* Called once when they are read: a failure says that this start cannot use them. */
typedef int journal_judge(void *context, struct bl_error *err);
/* Called on the writing thread: all records up to seq are on disk, and after that the run's epoch was `epoch`; or err says why
 * nothing more will be. */
typedef void journal_written(void *context, uint64_t seq, uint64_t epoch,
                             const struct bl_error *err);

/* Reads the journal (absent: none) without its torn end, claims the next epoch, whose EPOCH is the last record that the reader
 * gets, and starts the writing thread. A failure before the
 * claim leaves the run to whoever has it. -BL_ETAKEN: another coordinator started meanwhile. */
int journal_open(const char *run_folder, journal_reader *reader, journal_judge *judge,
                 journal_written *written, void *context, struct journal **ret,
                 struct bl_error *err);
/* Queues a record; one sync serves all that wait. */
void journal_append(struct journal *journal, uint64_t seq, const struct coord_record *record);
/* Asks for the run's epoch: `written` is called for the records so far. */
void journal_probe(struct journal *journal);
/* Writes what is queued, then stops. */
void journal_close(struct journal **journal);

/* Removes the journals of all epochs: the run begins anew. */
void journal_forget(const char *run_folder);
