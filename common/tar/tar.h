/* common/tar/tar.h - the files inside a tar archive: where in it their bytes lie, for reading any of them later by offset.
 *
 * Archive   ustar, pax, GNU and old tar, read by libarchive, not compressed. Its headers are read from front to back; what lies
 *           between them is passed over. Read, never mapped: others may change it.
 * End       an archive that was cut off, or that is damaged somewhere, ends there: what comes before is given. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/file.h"

struct tar;

struct tar_member {
    const char *name; /* as the archive has it, perhaps not UTF-8; borrowed until the next call */
    uint64_t offset, size; /* of its bytes, inside the archive */
    bool plain;            /* else a link or a sparse file, whose bytes are not there */
};

/* A compressed archive is refused with what to do (-BL_EFORMAT). *ret is the caller's (tar_free). */
int tar_open(const char *path, struct tar **ret, struct bl_error *err);
/* From memory (fuzzing, tests): `data` must outlive the result. */
int tar_parse(const void *data, size_t size, struct tar **ret, struct bl_error *err);
void tar_free(struct tar **tar);

/* The next file; folders and the like are passed over. ret->name NULL: there are no more. */
int tar_next(struct tar *tar, struct tar_member *ret, struct bl_error *err);
/* After the last: NULL, or in what way the archive is cut off or damaged. Borrowed. */
const char *tar_damage(const struct tar *tar);
/* The bytes of a plain member of at most max_bytes (-BL_ELIMIT). *ret_data is the caller's (free), NUL-terminated beyond its
 * size. -BL_EDATA: the archive was shortened meanwhile. */
int tar_read(const struct tar *tar, const struct tar_member *member, size_t max_bytes,
             char **ret_data, size_t *ret_size, struct bl_error *err);

/* Whether a path's end is that of an archive (".tar"), or of a compressed one (".tar.gz", ".tgz", …), whatever its case. */
bool tar_is_archive(const char *path);
bool tar_is_compressed(const char *path);
