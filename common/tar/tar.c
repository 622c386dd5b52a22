/* common/tar/tar.c - see tar.h. libarchive reads headers through our own reading, seeks over what is between them, and is never
 * asked for a member's bytes: in an archive that is not compressed they lie in one piece behind the header. */
#include "common/tar/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "common/progress.h"
#include "common/size.h"

#define BLOCK_BYTES 512
#define READ_BYTES 4096 /* headers, and the small members between images */

struct tar {
    int fd;                /* or -1, and: */
    const uint8_t *memory; /* borrowed */
    uint64_t size, at;     /* of the archive; where libarchive reads next */
    uint64_t behind;       /* the last member's bytes */
    struct archive *archive;
    locale_t locale; /* names become UTF-8 only where the locale has it */
    bool ended;
    char damage[256];       /* or "" */
    struct bl_error failed; /* of reading the file, which libarchive cannot carry */
    char block[READ_BYTES];
};

/* -- reading ---------------------------------------------------------------------------------- */

static int read_bytes(const struct tar *t, uint64_t offset, char *data, size_t size,
                      size_t *ret_done, struct bl_error *err)
{
    if (t->fd >= 0)
        return bl_file_read_at(t->fd, offset, data, size, ret_done, err);
    uint64_t there = offset < t->size ? t->size - offset : 0;
    *ret_done = size < there ? size : (size_t)there;
    if (*ret_done)
        memcpy(data, t->memory + offset, *ret_done);
    return 0;
}

static la_ssize_t on_read(struct archive *a, void *context, const void **ret)
{
    struct tar *t = context;
    size_t done = 0;
    if (read_bytes(t, t->at, t->block, sizeof t->block, &done, &t->failed) < 0)
        return ARCHIVE_FATAL;
    t->at += done;
    *ret = t->block;
    return (la_ssize_t)done;
}

static la_int64_t on_skip(struct archive *a, void *context, la_int64_t wanted)
{
    struct tar *t = context;
    uint64_t left = t->at < t->size ? t->size - t->at : 0;
    uint64_t skipped = (uint64_t)wanted < left ? (uint64_t)wanted : left;
    t->at += skipped;
    return (la_int64_t)skipped;
}

/* -- opening ---------------------------------------------------------------------------------- */

void tar_free(struct tar **tar)
{
    struct tar *t = *tar;
    if (!t)
        return;
    if (t->archive)
        archive_read_free(t->archive);
    if (t->locale)
        freelocale(t->locale);
    if (t->fd >= 0)
        close(t->fd);
    free(t);
    *tar = NULL;
}

static int refuse_compressed(const struct tar *t, struct bl_error *err)
{
    static const struct {
        const char *begin, *name, *command;
    } kinds[] = {
        {"\x1f\x8b", "gzip", "gunzip"},
        {"BZh", "bzip2", "bunzip2"},
        {"\xfd"
         "7zXZ",
         "xz", "unxz"},
        {"\x28\xb5\x2f\xfd", "zstd", "unzstd"},
    };
    char begin[8] = {0};
    size_t done;
    BL_TRY(read_bytes(t, 0, begin, sizeof begin, &done, err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t length = strlen(kinds[i].begin);
        if (done < length || memcmp(begin, kinds[i].begin, length))
            continue;
        bl_fail(err, BL_EFORMAT,
                "expected a tar archive that is not compressed, whose images can be read in any "
                "order, found one compressed by %s",
                kinds[i].name);
        return bl_error_remedy(err, "decompress it (%s)", kinds[i].command);
    }
    return 0;
}

/* An archive ends with blocks of zeros. */
static int check_end(struct tar *t, struct bl_error *err)
{
    static const char zeros[BLOCK_BYTES];
    char block[BLOCK_BYTES];
    size_t done;
    uint64_t at = (t->behind + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    BL_TRY(read_bytes(t, at, block, sizeof block, &done, err));
    if (done < sizeof block || memcmp(block, zeros, sizeof block))
        snprintf(t->damage, sizeof t->damage,
                 "ends at byte %" PRIu64 " without an end-of-archive mark", t->size);
    return 0;
}

/* What libarchive calls the end. */
static int end(struct tar *t, int rc, struct bl_error *err)
{
    const char *why = archive_error_string(t->archive);
    t->ended = true;
    if (t->failed.code && err)
        *err = t->failed;
    if (t->failed.code)
        return -t->failed.code;
    if (rc == ARCHIVE_EOF)
        return check_end(t, err);
    if (archive_errno(t->archive) == ENOMEM)
        return bl_fail(err, BL_ENOMEM, "no memory for the headers of a tar archive");
    snprintf(t->damage, sizeof t->damage, "is damaged after byte %" PRIu64 " (%.120s)", t->behind,
             why ? why : "no header");
    return 0;
}

static int open_archive(struct tar *t, struct bl_error *err)
{
    t->archive = archive_read_new();
    t->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!t->archive || !t->locale || archive_read_support_format_tar(t->archive) != ARCHIVE_OK ||
        archive_read_set_read_callback(t->archive, on_read) != ARCHIVE_OK ||
        archive_read_set_skip_callback(t->archive, on_skip) != ARCHIVE_OK ||
        archive_read_set_callback_data(t->archive, t) != ARCHIVE_OK)
        return bl_fail(err, BL_ENOMEM, "no memory for reading a tar archive");
    BL_TRY(refuse_compressed(t, err));
    int rc = archive_read_open1(t->archive);
    return rc == ARCHIVE_OK ? 0 : end(t, rc, err);
}

int tar_open(const char *path, struct tar **ret, struct bl_error *err)
{
    bl_auto(tar) struct tar *t = calloc(1, sizeof *t);
    struct bl_stamp stamp = {0};
    if (!t)
        return bl_fail(err, BL_ENOMEM, "no memory for reading a tar archive");
    t->fd = -1;
    BL_TRY(bl_file_open(path, &t->fd, &stamp, err));
    t->size = stamp.size;
    if (open_archive(t, err) < 0)
        return bl_error_file(err, path);
    *ret = bl_take(&t);
    return 0;
}

int tar_parse(const void *data, size_t size, struct tar **ret, struct bl_error *err)
{
    bl_auto(tar) struct tar *t = calloc(1, sizeof *t);
    if (!t)
        return bl_fail(err, BL_ENOMEM, "no memory for reading a tar archive");
    t->fd = -1;
    t->memory = data;
    t->size = size;
    BL_TRY(open_archive(t, err));
    *ret = bl_take(&t);
    return 0;
}

/* -- members ---------------------------------------------------------------------------------- */

/* The member behind its header; false: it is cut off. */
static bool describe(struct tar *t, struct archive_entry *entry, struct tar_member *ret)
{
    const char *name = archive_entry_pathname(entry);
    int64_t size = archive_entry_size(entry);
    uint64_t offset = (uint64_t)archive_filter_bytes(t->archive, 0), end;
    bool plain = name && size >= 0 && archive_entry_filetype(entry) == AE_IFREG &&
                 !archive_entry_hardlink(entry) && archive_entry_sparse_count(entry) == 0;
    *ret = (struct tar_member){.name = name ? name : "",
                               .offset = offset,
                               .size = plain ? (uint64_t)size : 0,
                               .plain = plain};
    if (!__builtin_add_overflow(offset, ret->size, &end) && end <= t->size) {
        t->behind = end;
        return true;
    }
    snprintf(t->damage, sizeof t->damage, "ends at byte %" PRIu64 " inside %.120s", t->size,
             ret->name);
    return false;
}

/* Passes over folders; `ret` is as it was where there are no more. */
static int next(struct tar *t, struct tar_member *ret, struct bl_error *err)
{
    while (!t->ended) {
        struct archive_entry *entry;
        struct tar_member found;
        int rc = archive_read_next_header(t->archive, &entry);
        bl_progress_add(1);
        if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN)
            return end(t, rc, err);
        t->ended = !describe(t, entry, &found);
        if (t->ended || archive_entry_filetype(entry) == AE_IFDIR)
            continue;
        *ret = found;
        return 0;
    }
    return 0;
}

int tar_next(struct tar *t, struct tar_member *ret, struct bl_error *err)
{
    locale_t before = uselocale(t->locale);
    *ret = (struct tar_member){0};
    int rc = next(t, ret, err);
    uselocale(before);
    return rc;
}

const char *tar_damage(const struct tar *tar)
{
    return tar->damage[0] ? tar->damage : NULL;
}

int tar_read(const struct tar *t, const struct tar_member *member, size_t max_bytes,
             char **ret_data, size_t *ret_size, struct bl_error *err)
{
    BL_ASSERT(member->plain);
    if (member->size > max_bytes)
        return bl_fail(err, BL_ELIMIT, "expected at most %zu bytes, found %" PRIu64, max_bytes,
                       member->size);
    size_t size = (size_t)member->size, done = 0;
    bl_autofree char *data = malloc(size + 1);
    if (!data)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes", size);
    BL_TRY(read_bytes(t, member->offset, data, size, &done, err));
    if (done < size)
        return bl_fail(err, BL_EDATA,
                       "expected %zu bytes at offset %" PRIu64 ", found the file's end; it was "
                       "shortened while it was read",
                       size, member->offset);
    data[size] = 0;
    *ret_data = bl_take(&data);
    *ret_size = size;
    return 0;
}

/* -- names ------------------------------------------------------------------------------------ */

static bool ends_with(const char *path, const char *end)
{
    size_t length = strlen(path), size = strlen(end);
    return length > size && !strcasecmp(path + length - size, end);
}

bool tar_is_archive(const char *path)
{
    return ends_with(path, ".tar");
}

bool tar_is_compressed(const char *path)
{
    static const char *const ends[] = {".tar.gz", ".tgz",     ".tar.bz2", ".tbz2",    ".tar.xz",
                                       ".txz",    ".tar.zst", ".tzst",    ".tar.lz4", ".tar.lzma"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(path, ends[i]))
            return true;
    return false;
}
