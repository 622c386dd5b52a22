/* proto/keys.h - the key by which a cluster knows its own: one CURVE key pair in FOLDER/cluster.key. Every program of the cluster
 * has a copy; whoever has it belongs to the cluster, and nobody else. */
#pragma once

#include "common/error.h"

#define KEYS_FILE "cluster.key"
#define KEYS_TEXT_SIZE 41 /* Z85 of 32 bytes, and a NUL */

struct keys {
    char public_key[KEYS_TEXT_SIZE], secret_key[KEYS_TEXT_SIZE];
};

/* Makes the folder (mode 0700) and the file (mode 0600) with a new pair. -BL_EUSAGE: there is one already. */
int keys_make(const char *folder, struct bl_error *err);
/* -BL_EUSAGE: others than its owner may read or write it; -BL_EFORMAT: it is no key pair. */
int keys_read(const char *folder, struct keys *ret, struct bl_error *err);
