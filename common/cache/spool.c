/* common/cache/spool.c - see spool.h. */
#include "common/cache/spool.h"

#include <dirent.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/array.h"
#include "common/cache/parts.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"

#define MAGIC "BLSPOOL1"
#define CHECK_BYTES 16

struct header {
    char magic[8];
    uint8_t form[32];
    uint64_t record_bytes;
};

/* Where things are in a record; pooled and scale have no bytes where the form has none. */
struct record_form {
    size_t features_bytes, scale_bytes, pooled_bytes;
    size_t features_room; /* so that the floats behind are aligned */
    size_t bytes;
};

static struct record_form record_of(const struct cache_form *form)
{
    size_t tokens = (size_t)form->tokens, width = (size_t)form->width;
    struct record_form r = {.features_bytes = tokens * width * cache_element_bytes(form->dtype),
                            .scale_bytes =
                                form->dtype == CONFIG_CACHE_INT8 ? tokens * sizeof(float) : 0,
                            .pooled_bytes = form->pooled ? width * sizeof(float) : 0};
    r.features_room = (r.features_bytes + 7) / 8 * 8;
    r.bytes =
        sizeof(cache_identity) + CHECK_BYTES + r.features_room + r.scale_bytes + r.pooled_bytes;
    return r;
}

static void header_of(const struct cache_form *form, struct header *ret)
{
    struct bl_sha256 hash;
    const int64_t numbers[] = {form->dtype, form->tokens, form->width, form->pooled, form->alone};
    memcpy(ret->magic, MAGIC, sizeof ret->magic);
    ret->record_bytes = record_of(form).bytes;
    bl_sha256_begin(&hash);
    bl_sha256_add(&hash, form->tower, strlen(form->tower) + 1);
    bl_sha256_add(&hash, form->preprocessing, strlen(form->preprocessing) + 1);
    bl_sha256_add(&hash, form->precision, strlen(form->precision) + 1);
    bl_sha256_add(&hash, numbers, sizeof numbers);
    bl_sha256_end(&hash, ret->form);
}

/* Of identity and payload. */
static void checksum(const uint8_t *record, size_t bytes, uint8_t ret[CHECK_BYTES])
{
    size_t behind = sizeof(cache_identity) + CHECK_BYTES;
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, CHECK_BYTES);
    crypto_generichash_update(&state, record, sizeof(cache_identity));
    crypto_generichash_update(&state, record + behind, bytes - behind);
    crypto_generichash_final(&state, ret, CHECK_BYTES);
}

static bool is_spool(const char *name)
{
    size_t length = strlen(name);
    return length > 14 && !strncmp(name, "filling-", 8) && !strcmp(name + length - 6, ".spool");
}

static void close_folder(DIR **folder)
{
    if (*folder)
        closedir(*folder);
}

/* -- reading ---------------------------------------------------------------------------------- */

struct mapped {
    uint8_t *data;
    size_t size;
};

struct spools {
    struct cache_form form;
    struct record_form record;
    struct mapped *files;
    size_t file_count, file_capacity;
    const uint8_t **records; /* by identity */
    size_t record_count, record_capacity;
};

static int refuse(const char *path, struct bl_error *err)
{
    bl_fail(err, BL_ECONFIG,
            "it was filled with features of another vision tower, preprocessing, precision, "
            "cache.dtype or train.reproducible");
    bl_error_remedy(err, "remove it, or set another cache.path");
    return bl_error_file(err, path);
}

/* A file too short for its header was torn at once, and has nothing. */
static int add_file(struct spools *s, const char *path, struct bl_error *err)
{
    struct header expected = {0}, *found;
    struct stat st;
    bl_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        bl_fail_errno(err, "cannot be read");
        return bl_error_file(err, path);
    }
    if ((size_t)st.st_size < sizeof expected)
        return 0;
    struct mapped file = {NULL, (size_t)st.st_size};
    file.data = mmap(NULL, file.size, PROT_READ, MAP_SHARED, fd, 0);
    if (file.data == MAP_FAILED) {
        bl_fail_errno(err, "cannot be mapped");
        return bl_error_file(err, path);
    }
    if (!bl_grow(&s->files, &s->file_capacity, s->file_count + 1, sizeof *s->files)) {
        munmap(file.data, file.size);
        return bl_fail(err, BL_ENOMEM, "no memory for the spools of a cache");
    }
    s->files[s->file_count++] = file;
    header_of(&s->form, &expected);
    found = (void *)file.data;
    if (memcmp(found, &expected, sizeof expected) != 0)
        return refuse(path, err);
    for (size_t at = sizeof expected; file.size - at >= s->record.bytes; at += s->record.bytes) {
        if (!bl_grow(&s->records, &s->record_capacity, s->record_count + 1, sizeof *s->records))
            return bl_fail(err, BL_ENOMEM, "no memory for the spools of a cache");
        s->records[s->record_count++] = file.data + at;
    }
    return 0;
}

static int compare_records(const void *a, const void *b)
{
    return memcmp(*(const uint8_t *const *)a, *(const uint8_t *const *)b, sizeof(cache_identity));
}

int spools_open(const char *folder, const struct cache_form *form, struct spools **ret,
                struct bl_error *err)
{
    bl_auto(spools) struct spools *s = calloc(1, sizeof *s);
    __attribute__((cleanup(close_folder))) DIR *dir = opendir(folder);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for the spools of a cache");
    s->form = *form;
    s->record = record_of(form);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[4096];
        if (!is_spool(entry->d_name))
            continue;
        BL_TRY(bl_path_join(path, sizeof path, folder, entry->d_name, err));
        BL_TRY(add_file(s, path, err));
    }
    if (s->record_count)
        qsort(s->records, s->record_count, sizeof *s->records, compare_records);
    *ret = bl_take(&s);
    return 0;
}

void spools_free(struct spools **spools)
{
    struct spools *s = *spools;
    if (!s)
        return;
    for (size_t i = 0; i < s->file_count; i++)
        munmap(s->files[i].data, s->files[i].size);
    free(s->files);
    free(s->records);
    free(s);
    *spools = NULL;
}

/* The first record of an image; NULL: there is none. */
static const uint8_t *const *find(const struct spools *s, const uint8_t identity[32])
{
    size_t low = 0, high = s->record_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memcmp(s->records[middle], identity, sizeof(cache_identity)) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->record_count && !memcmp(s->records[low], identity, sizeof(cache_identity))
               ? &s->records[low]
               : NULL;
}

bool spools_have(const struct spools *s, const uint8_t identity[32])
{
    return find(s, identity) != NULL;
}

/* A whole record of an image; NULL: none is. */
static const uint8_t *find_whole(const struct spools *s, const uint8_t identity[32])
{
    const uint8_t *const *at = find(s, identity), *const *end = s->records + s->record_count;
    for (; at && at < end && !memcmp(*at, identity, sizeof(cache_identity)); at++) {
        uint8_t check[CHECK_BYTES];
        checksum(*at, s->record.bytes, check);
        if (!memcmp(*at + sizeof(cache_identity), check, sizeof check))
            return *at;
    }
    return NULL;
}

/* A shard's columns; owned. */
struct columns {
    cache_identity *rows, *voids;
    uint8_t *features;
    float *scale, *pooled;
};

static void columns_release(struct columns *c)
{
    free(c->rows);
    free(c->voids);
    free(c->features);
    free(c->scale);
    free(c->pooled);
}

static bool columns_alloc(struct columns *c, const struct record_form *r, uint32_t images)
{
    c->rows = calloc(images + 1, sizeof *c->rows);
    c->voids = calloc(images + 1, sizeof *c->voids);
    c->features = malloc(images * r->features_bytes + 1);
    c->scale = malloc(images * r->scale_bytes + 1);
    c->pooled = malloc(images * r->pooled_bytes + 1);
    return c->rows && c->voids && c->features && c->scale && c->pooled;
}

static void take_row(const struct record_form *r, const uint8_t *record, uint32_t row,
                     struct columns *c)
{
    const uint8_t *at = record + sizeof(cache_identity) + CHECK_BYTES;
    memcpy(c->rows[row], record, sizeof *c->rows);
    memcpy(c->features + row * r->features_bytes, at, r->features_bytes);
    at += r->features_room;
    memcpy((uint8_t *)c->scale + row * r->scale_bytes, at, r->scale_bytes);
    at += r->scale_bytes;
    memcpy((uint8_t *)c->pooled + row * r->pooled_bytes, at, r->pooled_bytes);
}

int spools_write_shard(const struct spools *s, const char *folder, uint32_t index, uint32_t count,
                       const cache_identity *images, const bool *is_void, uint32_t image_count,
                       uint32_t *ret_torn, struct bl_error *err)
{
    __attribute__((cleanup(columns_release))) struct columns c = {0};
    struct cache_shard shard = {.index = index, .count = count};
    *ret_torn = 0;
    if (!columns_alloc(&c, &s->record, image_count))
        return bl_fail(err, BL_ENOMEM, "no memory for the features of %u images", image_count);
    for (uint32_t i = 0; i < image_count; i++) {
        const uint8_t *record = find_whole(s, images[i]);
        if (record)
            take_row(&s->record, record, shard.image_count++, &c);
        else if (is_void[i])
            memcpy(c.voids[shard.void_count++], images[i], sizeof *c.voids);
        else
            ++*ret_torn;
    }
    if (*ret_torn)
        return 0;
    shard.images = (const cache_identity *)c.rows;
    shard.voids = (const cache_identity *)c.voids;
    shard.stored = c.features;
    shard.scale = c.scale;
    shard.pooled = c.pooled;
    return cache_write_shard(folder, &s->form, &shard, err);
}

void spools_remove(const char *folder)
{
    __attribute__((cleanup(close_folder))) DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[4096];
        if (is_spool(entry->d_name) &&
            bl_path_join(path, sizeof path, folder, entry->d_name, NULL) == 0)
            unlink(path); /* what cannot be removed does no harm */
    }
}

/* -- writing ---------------------------------------------------------------------------------- */

struct spool {
    struct cache_form form;
    struct record_form record;
    char path[4096];
    int fd;
    uint8_t *buffer; /* of a record */
    uint8_t (*known)
        [CHECK_BYTES]; /* starts of identities; open addressing, at most half full, zero: free */
    size_t slots, used;
};

static uint8_t *slot_of(const struct spool *s, const uint8_t key[CHECK_BYTES])
{
    static const uint8_t zero[CHECK_BYTES];
    uint64_t start;
    memcpy(&start, key, sizeof start);
    for (size_t i = start & (s->slots - 1);; i = (i + 1) & (s->slots - 1))
        if (!memcmp(s->known[i], key, CHECK_BYTES) || !memcmp(s->known[i], zero, CHECK_BYTES))
            return s->known[i];
}

static bool grow_known(struct spool *s)
{
    static const uint8_t zero[CHECK_BYTES];
    struct spool grown = {.slots = s->slots ? 2 * s->slots : 1024};
    grown.known = calloc(grown.slots, sizeof *grown.known);
    if (!grown.known)
        return false;
    for (size_t i = 0; i < s->slots; i++)
        if (memcmp(s->known[i], zero, CHECK_BYTES) != 0)
            memcpy(slot_of(&grown, s->known[i]), s->known[i], CHECK_BYTES);
    free(s->known);
    s->known = grown.known;
    s->slots = grown.slots;
    return true;
}

/* *ret_new: it was not known before. */
static int learn(struct spool *s, const uint8_t identity[32], bool *ret_new, struct bl_error *err)
{
    if (2 * s->used >= s->slots && !grow_known(s))
        return bl_fail(err, BL_ENOMEM, "no memory for the identities of a cache's images");
    uint8_t *slot = slot_of(s, identity);
    *ret_new = memcmp(slot, identity, CHECK_BYTES) != 0;
    memcpy(slot, identity, CHECK_BYTES);
    s->used += *ret_new;
    return 0;
}

static int write_whole(const struct spool *s, const void *data, size_t size, struct bl_error *err)
{
    const uint8_t *at = data;
    while (size) {
        ssize_t written = write(s->fd, at, size);
        if (written < 0) {
            bl_fail_errno(err, "cannot be written");
            return bl_error_file(err, s->path);
        }
        at += written;
        size -= (size_t)written;
    }
    return 0;
}

static int begin(struct spool *s, const char *folder, struct bl_error *err)
{
    uint8_t draw[8];
    char hex[2 * sizeof draw + 1], name[64];
    struct header header = {0};
    randombytes_buf(draw, sizeof draw);
    bl_hex(draw, sizeof draw, hex);
    snprintf(name, sizeof name, "filling-%s.spool", hex);
    BL_TRY(bl_folder_make(folder, err));
    BL_TRY(bl_path_join(s->path, sizeof s->path, folder, name, err));
    s->fd = open(s->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (s->fd < 0) {
        bl_fail_errno(err, "cannot be made");
        return bl_error_file(err, s->path);
    }
    header_of(&s->form, &header);
    return write_whole(s, &header, sizeof header, err);
}

int spool_open(const char *folder, const struct cache_form *form, struct spool **ret,
               struct bl_error *err)
{
    bl_auto(spools) struct spools *there = NULL;
    bl_auto(spool) struct spool *s = calloc(1, sizeof *s);
    if (!s)
        return bl_fail(err, BL_ENOMEM, "no memory for a spool");
    s->fd = -1;
    s->form = *form;
    s->record = record_of(form);
    s->buffer = calloc(1, s->record.bytes);
    if (!s->buffer)
        return bl_fail(err, BL_ENOMEM, "no memory for a spool");
    BL_TRY(spools_open(folder, form, &there, err));
    for (size_t i = 0; i < there->record_count; i++) {
        bool is_new;
        if (find_whole(there, there->records[i])) /* a torn one is written again */
            BL_TRY(learn(s, there->records[i], &is_new, err));
    }
    BL_TRY(begin(s, folder, err));
    *ret = bl_take(&s);
    return 0;
}

void spool_free(struct spool **spool)
{
    struct spool *s = *spool;
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    free(s->buffer);
    free(s->known);
    free(s);
    *spool = NULL;
}

int spool_add(struct spool *s, const uint8_t identity[32], float *features, const float *pooled,
              struct bl_error *err)
{
    size_t width = (size_t)s->form.width, count = (size_t)s->form.tokens * width, at;
    uint8_t *payload = s->buffer + sizeof(cache_identity) + CHECK_BYTES;
    float *scale = (float *)(payload + s->record.features_room);
    bool is_new = false;
    enum number_fault fault =
        numbers_store(s->form.dtype, payload, scale, features, count, width, &at);
    if (fault != NUMBER_FITS)
        return cache_fail_number(fault, s->form.dtype, identity, features[at], err);
    numbers_load(s->form.dtype, features, payload, scale, count, width);
    BL_TRY(learn(s, identity, &is_new, err));
    if (!is_new)
        return 0;
    memcpy(s->buffer, identity, sizeof(cache_identity));
    if (s->record.pooled_bytes)
        memcpy(payload + s->record.features_room + s->record.scale_bytes, pooled,
               s->record.pooled_bytes);
    checksum(s->buffer, s->record.bytes, s->buffer + sizeof(cache_identity));
    return write_whole(s, s->buffer, s->record.bytes, err);
}
