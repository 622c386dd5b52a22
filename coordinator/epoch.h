/* coordinator/epoch.h - which start of a coordinator owns the run folder (docs/protocol.md, J3 and J4).
 *
 * Each start claims the next number, its epoch. RUN/epochs/N/ is the claim: whoever makes that folder has the number, on any
 * file system, as mkdir succeeds for one caller. RUN/epoch holds the number claimed last; whoever reads another one there than
 * its own has lost the run. It is written in place and opened anew for each reading, because that is what NFS clients do not
 * answer from their caches (close-to-open consistency). Locks are not relied on. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Room for a path below a run folder. */
#define EPOCH_PATH_MAX 4160

/* The number claimed last; 0: none ever was. Reads RUN/epoch. */
int epoch_read(const char *run_folder, uint64_t *ret, struct bl_error *err);
/* The number claimed last, as the owner of `own` sees it. A start that claimed a lower number at the same time may write RUN/epoch after it;
 * such a start owns nothing and ends, so then the claims tell. 0: the run folder is gone. */
int epoch_look(const char *run_folder, uint64_t own, uint64_t *ret, struct bl_error *err);
/* Claims the next number and writes it to RUN/epoch. -BL_ETAKEN: another coordinator claimed one meanwhile. */
int epoch_claim(const char *run_folder, uint64_t *ret, struct bl_error *err);
/* RUN/epochs/N/journal. ret: EPOCH_PATH_MAX bytes. */
void epoch_journal_path(const char *run_folder, uint64_t epoch, char *ret);
/* The newest journal of an epoch below `below`; "" if there is none. ret: EPOCH_PATH_MAX bytes. */
int epoch_last_journal(const char *run_folder, uint64_t below, char *ret, struct bl_error *err);
/* Removes the journals of epochs below `below`; the claims stay. What cannot be removed is left there. */
void epoch_remove_journals(const char *run_folder, uint64_t below);
