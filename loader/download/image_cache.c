/* loader/download/image_cache.c - see cache.h. */
#include "loader/download/image_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"

#define FAILED "failed: "
enum {
    NAME_BYTES = 20, /* of an image's SHA-256: the link to it then fits into an inode */
    SHARDS = 256,
    USED_AFTER_S = 60 /* a time of use is not written more often */
};

struct image_cache {
    char *folder;
    uint64_t limit_bytes;
    int lock_fd, total_fd;
};

static int fail_nomem(struct bl_error *err)
{
    return bl_fail(err, BL_ENOMEM, "no memory for the cache of images");
}

static int fail_at(struct bl_error *err, const char *path, const char *what)
{
    bl_fail_errno(err, "%s", what);
    bl_error_remedy(err, "check the folder of data.cache, its space and permissions");
    return bl_error_file(err, path);
}

/* -- names ------------------------------------------------------------------------------------ */

/* The last part of CACHE/url/ab/cdef…: 62 digits. */
static const char *digits_of(const char *url_path)
{
    return strrchr(url_path, '/') + 1;
}

/* The path of what a URL's link names, the caller's; NULL: there is no link, no memory, or it names a failure (ret_reason). */
static char *image_of(const char *url_path, char ret_reason[IMAGE_CACHE_REASON_MAX])
{
    char target[IMAGE_CACHE_REASON_MAX + sizeof FAILED];
    char *path = NULL;
    ssize_t size = readlink(url_path, target, sizeof target - 1);
    ret_reason[0] = 0;
    if (size < 0)
        return NULL;
    target[size] = 0;
    if (!strncmp(target, FAILED, strlen(FAILED))) {
        snprintf(ret_reason, IMAGE_CACHE_REASON_MAX, "%s", target + strlen(FAILED));
        return NULL;
    }
    int folder = (int)(digits_of(url_path) - url_path);
    return asprintf(&path, "%.*s%s", folder, url_path, target) < 0 ? NULL : path;
}

static void name_image(const uint8_t hash[32], char ret[2 * NAME_BYTES + 2])
{
    char hex[2 * NAME_BYTES + 1];
    bl_hex(hash, NAME_BYTES, hex);
    snprintf(ret, 2 * NAME_BYTES + 2, "%.2s/%s", hex, hex + 2);
}

/* -- reading ---------------------------------------------------------------------------------- */

/* Says that an image was used: eviction goes by the file's time. */
static void use(const char *path, const struct stat *st)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec - st->st_mtim.tv_sec >= USED_AFTER_S)
        utimensat(AT_FDCWD, path, NULL, 0);
}

enum image_cache_state image_cache_find(const char *url_path,
                                        char ret_reason[IMAGE_CACHE_REASON_MAX])
{
    struct stat st;
    bl_autofree char *image = image_of(url_path, ret_reason);
    if (!image)
        return ret_reason[0] ? IMAGE_CACHE_FAILED : IMAGE_CACHE_ABSENT;
    if (stat(image, &st) < 0)
        return IMAGE_CACHE_ABSENT;
    use(image, &st);
    return IMAGE_CACHE_HERE;
}

bool image_cache_verify(const char *url_path, const void *data, size_t size)
{
    char reason[IMAGE_CACHE_REASON_MAX], name[2 * NAME_BYTES + 2];
    uint8_t hash[32];
    bl_autofree char *image = image_of(url_path, reason);
    bl_sha256(data, size, hash);
    name_image(hash, name);
    size_t length = image ? strlen(image) : 0;
    if (length >= strlen(name) && !strcmp(image + length - strlen(name), name))
        return true;
    if (image)
        unlink(image);
    return false;
}

/* -- locks ------------------------------------------------------------------------------------ */

/* Of an open file description, not of the process: two caches of one process exclude each other. */
static int lock_range(const struct image_cache *c, int command, short type, off_t at)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    int rc;
    while ((rc = fcntl(c->lock_fd, command, &lock)) < 0 && errno == EINTR)
        ;
    return rc;
}

static off_t place_of(const char *url_path)
{
    char start[16] = "";
    memcpy(start, digits_of(url_path), 15); /* 60 bits: two URLs that share a place only wait */
    return (off_t)strtoull(start, NULL, 16) + 1;
}

bool image_cache_lock(const struct image_cache *c, const char *url_path)
{
    return lock_range(c, F_OFD_SETLK, F_WRLCK, place_of(url_path)) == 0;
}

void image_cache_unlock(const struct image_cache *c, const char *url_path)
{
    lock_range(c, F_OFD_SETLK, F_UNLCK, place_of(url_path));
}

/* -- size ------------------------------------------------------------------------------------- */

struct kept {
    char name[2 * NAME_BYTES + 2];
    int64_t used_ns;
    uint64_t size;
};

struct kept_list {
    struct kept *at;
    size_t count, capacity;
    uint64_t bytes;
};

static void closedir_at(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static int scan_shard(const struct image_cache *c, int shard, struct kept_list *list,
                      struct bl_error *err)
{
    bl_autofree char *path = NULL;
    if (asprintf(&path, "%s/image/%02x", c->folder, shard) < 0) {
        path = NULL;
        return fail_nomem(err);
    }
    __attribute__((cleanup(closedir_at))) DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? 0 : fail_at(err, path, "cannot be listed");
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat st;
        struct kept kept;
        if (entry->d_name[0] == '.' ||
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        snprintf(kept.name, sizeof kept.name, "%02x/%.38s", shard, entry->d_name);
        kept.used_ns = st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec;
        kept.size = (uint64_t)st.st_size;
        if (!bl_grow(&list->at, &list->capacity, list->count + 1, sizeof kept))
            return fail_nomem(err);
        list->at[list->count++] = kept;
        list->bytes += kept.size;
    }
    return 0;
}

/* What eviction leaves at most. */
static uint64_t most_bytes(const struct image_cache *c)
{
    return c->limit_bytes ? c->limit_bytes - c->limit_bytes / 10 : UINT64_MAX;
}

static int compare_use(const void *a, const void *b)
{
    const struct kept *x = a, *y = b;
    if (x->used_ns != y->used_ns)
        return x->used_ns < y->used_ns ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Counts the images, and removes some until `room` more bytes leave a tenth of the limit free. *ret_total: what is there then. */
static int recount(const struct image_cache *c, uint64_t room, uint64_t *ret_total,
                   struct bl_error *err)
{
    struct kept_list list = {0};
    uint64_t most = most_bytes(c);
    int rc = 0;
    for (int shard = 0; shard < SHARDS && rc == 0; shard++)
        rc = scan_shard(c, shard, &list, err);
    if (rc == 0 && list.count)
        qsort(list.at, list.count, sizeof *list.at, compare_use);
    for (size_t i = 0; i < list.count && rc == 0 && list.bytes + room > most; i++) {
        bl_autofree char *path = NULL;
        if (asprintf(&path, "%s/image/%s", c->folder, list.at[i].name) < 0) {
            path = NULL;
            rc = fail_nomem(err);
        } else if (unlink(path) < 0 && errno != ENOENT) {
            rc = fail_at(err, path, "cannot be removed");
        } else {
            list.bytes -= list.at[i].size;
        }
    }
    *ret_total = list.bytes;
    free(list.at);
    return rc;
}

/* Under the lock of the total. */
static int reserve_locked(const struct image_cache *c, uint64_t size, struct bl_error *err)
{
    uint64_t total = 0;
    bool known = pread(c->total_fd, &total, sizeof total, 0) == (ssize_t)sizeof total;
    if (!known || (c->limit_bytes && total + size > c->limit_bytes))
        BL_TRY(recount(c, size, &total, err));
    total += size;
    if (pwrite(c->total_fd, &total, sizeof total, 0) != (ssize_t)sizeof total)
        return fail_at(err, c->folder, "its total cannot be written");
    return 0;
}

/* Before an image appears, so that there is never more than the total says. */
static int reserve(const struct image_cache *c, uint64_t size, struct bl_error *err)
{
    if (size > most_bytes(c)) {
        bl_fail(err, BL_ELIMIT,
                "expected an image of at most nine tenths of data.cache_bytes, found %" PRIu64
                " bytes",
                size);
        return bl_error_remedy(err, "raise data.cache_bytes");
    }
    if (lock_range(c, F_OFD_SETLKW, F_WRLCK, 0) < 0)
        return fail_at(err, c->folder, "cannot be locked");
    int rc = reserve_locked(c, size, err);
    lock_range(c, F_OFD_SETLK, F_UNLCK, 0);
    return rc;
}

/* -- keeping ---------------------------------------------------------------------------------- */

static char *part_path(const struct image_cache *c, const char *url_path, const char *end)
{
    char *path = NULL;
    return asprintf(&path, "%s/part/%s%s", c->folder, digits_of(url_path), end) < 0 ? NULL : path;
}

int image_cache_part_open(const struct image_cache *c, const char *url_path, int *ret_fd,
                          char **ret_path, struct bl_error *err)
{
    bl_autofree char *path = part_path(c, url_path, "");
    if (!path)
        return fail_nomem(err);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return fail_at(err, path, "cannot be written");
    *ret_fd = fd;
    *ret_path = bl_take(&path);
    return 0;
}

/* A file that is renamed into a folder of 256 like it, which is made when first needed. */
static int rename_into(const char *from, const char *to, struct bl_error *err)
{
    if (rename(from, to) == 0)
        return 0;
    bl_autofree char *folder = errno == ENOENT ? bl_path_parent(to) : NULL;
    if (folder && (mkdir(folder, 0777) == 0 || errno == EEXIST) && rename(from, to) == 0)
        return 0;
    return fail_at(err, to, "cannot be written");
}

/* The URL's link, anew. */
static int link_url(const struct image_cache *c, const char *url_path, const char *target,
                    struct bl_error *err)
{
    bl_autofree char *link = part_path(c, url_path, ".link");
    if (!link)
        return fail_nomem(err);
    unlink(link);
    if (symlink(target, link) < 0)
        return fail_at(err, link, "cannot be written");
    return rename_into(link, url_path, err);
}

static int keep_image(struct image_cache *c, const char *image, const char *part, uint64_t size,
                      struct bl_error *err)
{
    struct stat st;
    if (stat(image, &st) == 0 && (uint64_t)st.st_size == size) {
        use(image, &st);
        return 0;
    }
    BL_TRY(reserve(c, size, err));
    return rename_into(part, image, err);
}

int image_cache_keep(struct image_cache *c, const char *url_path, const char *part,
                     const uint8_t hash[32], uint64_t size, struct bl_error *err)
{
    char name[2 * NAME_BYTES + 2], target[2 * NAME_BYTES + 32];
    bl_autofree char *image = NULL;
    name_image(hash, name);
    snprintf(target, sizeof target, "../../image/%s", name);
    if (asprintf(&image, "%s/image/%s", c->folder, name) < 0) {
        image = NULL;
        unlink(part);
        return fail_nomem(err);
    }
    int rc = keep_image(c, image, part, size, err);
    unlink(part);
    return rc < 0 ? rc : link_url(c, url_path, target, err);
}

int image_cache_fail(const struct image_cache *c, const char *url_path, const char *reason,
                     struct bl_error *err)
{
    char target[IMAGE_CACHE_REASON_MAX + sizeof FAILED];
    snprintf(target, sizeof target, FAILED "%.*s", IMAGE_CACHE_REASON_MAX - 1, reason);
    for (char *slash = target; (slash = strchr(slash, '/'));)
        *slash = '|'; /* names nothing elsewhere */
    return link_url(c, url_path, target, err);
}

/* -- opening ---------------------------------------------------------------------------------- */

/* Removes parts whose URL nobody has locked. */
static void sweep(const struct image_cache *c)
{
    bl_autofree char *path = NULL;
    if (asprintf(&path, "%s/part", c->folder) < 0) {
        path = NULL;
        return;
    }
    __attribute__((cleanup(closedir_at))) DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char url_path[300];
        snprintf(url_path, sizeof url_path, "/%s", entry->d_name);
        if (strlen(entry->d_name) < 62 || !image_cache_lock(c, url_path))
            continue;
        unlinkat(dirfd(dir), entry->d_name, 0);
        image_cache_unlock(c, url_path);
    }
}

static int open_file(const struct image_cache *c, const char *name, int *ret_fd,
                     struct bl_error *err)
{
    bl_autofree char *path = NULL;
    if (asprintf(&path, "%s/%s", c->folder, name) < 0) {
        path = NULL;
        return fail_nomem(err);
    }
    *ret_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    return *ret_fd < 0 ? fail_at(err, path, "cannot be opened") : 0;
}

int image_cache_open(const char *folder, uint64_t limit_bytes, struct image_cache **ret,
                     struct bl_error *err)
{
    static const char *const inside[] = {"image", "url", "part"};
    bl_auto(image_cache) struct image_cache *c = calloc(1, sizeof *c);
    if (!c)
        return fail_nomem(err);
    c->limit_bytes = limit_bytes;
    c->lock_fd = c->total_fd = -1;
    c->folder = strdup(folder);
    if (!c->folder)
        return fail_nomem(err);
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        char path[4096];
        BL_TRY(bl_path_join(path, sizeof path, folder, inside[i], err));
        BL_TRY(bl_folder_make(path, err));
    }
    BL_TRY(open_file(c, "lock", &c->lock_fd, err));
    BL_TRY(open_file(c, "total", &c->total_fd, err));
    sweep(c);
    *ret = bl_take(&c);
    return 0;
}

void image_cache_free(struct image_cache **cache)
{
    struct image_cache *c = *cache;
    if (!c)
        return;
    if (c->lock_fd >= 0)
        close(c->lock_fd);
    if (c->total_fd >= 0)
        close(c->total_fd);
    free(c->folder);
    free(c);
    *cache = NULL;
}
