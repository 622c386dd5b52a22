/* common/data/location.h - where the bytes of an image are: a file, a range of a container (tar, Arrow), a value of a Parquet
 * file, or a URL with the file it is cached in. The index stores it as a text; whoever reads bytes does not ask which kind it is.
 *
 *   /folder/image.jpg                       a file
 *   range:OFFSET+LENGTH:/folder/shard.tar   LENGTH bytes of a container from OFFSET on
 *   cell:ROW+N:COLUMN/folder/file.parquet   a value: row from 0, column of N bytes (common/parquet/parquet.h names it)
 *   url:URL /cache/file                     the URL holds no space */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/file.h"

enum location_kind {
    LOCATION_FILE,
    LOCATION_RANGE,
    LOCATION_CELL,
    LOCATION_URL,
    LOCATION_KIND_COUNT
};

struct location {
    enum location_kind kind;
    const char *path; /* absolute: the file, the container, or the file that caches the URL */
    uint64_t offset, length; /* LOCATION_RANGE: bytes of the container */
    uint64_t row;            /* LOCATION_CELL */
    const char *column;      /* column_length bytes, no NUL behind them */
    size_t column_length;
    const char *url; /* LOCATION_URL: url_length bytes, no NUL behind them */
    size_t url_length;
};

/* Reads a location's text; the result borrows from it. -BL_EFORMAT: it is none. */
int location_parse(const char *text, struct location *ret, struct bl_error *err);
/* The text that location_parse reads. *ret is the caller's (free). */
int location_format(const struct location *location, char **ret, struct bl_error *err);
/* For people, cut to size: the path, "shard.tar[OFFSET+LENGTH]", or the URL. */
void location_describe(const struct location *location, char *ret, size_t size);

/* Size of the image's bytes (LOCATION_CELL: of the file that holds them) and modification time of the file, without reading
 * them. */
int location_stamp(const struct location *location, struct bl_stamp *ret, struct bl_error *err);
/* Reads the bytes, at most max_bytes (-BL_ELIMIT). Never mapped: others may change the
 * file meanwhile. *ret_data is the caller's (free), NUL-terminated beyond its size. *ret_stamp (may be NULL) is of what was read; two reads with the same
 * stamp read the same bytes. Safe from any thread. */
int location_read(const struct location *location, size_t max_bytes, char **ret_data,
                  size_t *ret_size, struct bl_stamp *ret_stamp, struct bl_error *err);

/* SHA-256 of the bytes, however many, in pieces. */
int location_sha256(const struct location *location, uint8_t ret_hash[32],
                    struct bl_stamp *ret_stamp, struct bl_error *err);

/* What a failure to read or use an image says. */
enum location_failure {
    /* Of the bytes, the same on every host: no picture, too large. */
    LOCATION_BAD,
    /* Of this host's view: not there (ENOENT, ENOTDIR, ...), not permitted (EACCES, EPERM), no regular file, or not the
     * bytes that were indexed (BL_EDATA). Another host may read it. */
    LOCATION_UNREADABLE,
    /* Of this host at this time (EIO, EMFILE, ESTALE, no memory, ...): try again. */
    LOCATION_PASSING,
};
enum location_failure location_failure_of(const struct bl_error *err);

/* How to pass the time between two tries. wait returns false to stop trying. */
struct location_patience {
    bool (*wait)(void *context, uint32_t ms);
    void *context;
};
/* After the `failures`-th failed try in a row, whose error is *err: 0 where another try may help, after a pause that grows; else
 * the error, a passing one after half a minute and with the location's name; or -BL_ESTOPPED. */
int location_before_next_try(const struct location *location, unsigned failures,
                             const struct location_patience *patience, struct bl_error *err);
