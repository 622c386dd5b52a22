/* common/hub/pull.c - see pull.h. */
#include "common/hub/pull.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hub/client.h"

struct pull {
    const struct hub_id *id;
    const struct hub_pull_options *options;
    struct hub_client client;
    struct hub_files files;
    struct hub_progress progress;
    char repository[3500], commit[41];
};

/* -- which files ------------------------------------------------------------------------------ */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

static bool is_shard(const char *name)
{
    unsigned part, parts;
    int end = 0;
    return sscanf(name, "model-%5u-of-%5u.safetensors%n", &part, &parts, &end) == 2 && !name[end];
}

static bool is_for_model(const char *path)
{
    static const char *const names[] = {
        "model.safetensors", "tokenizer.model", "spiece.model",       "sentencepiece.bpe.model",
        "vocab.txt",         "merges.txt",      "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(path, names[i]))
            return true;
    return !strchr(path, '/') && (ends_with(path, ".json") || is_shard(path));
}

static bool is_parquet(const char *path)
{
    return ends_with(path, ".parquet");
}

static bool is_tar(const char *path)
{
    return ends_with(path, ".tar");
}

static bool is_data(const char *path)
{
    return path[0] != '.' && !ends_with(path, ".md") && !ends_with(path, ".py");
}

static size_t keep(struct hub_files *files, bool (*wanted)(const char *path))
{
    size_t count = 0;
    for (size_t i = 0; i < files->count; i++) {
        struct hub_file file = files->at[i];
        if (wanted(file.path)) {
            files->at[i] = files->at[count];
            files->at[count++] = file;
        }
    }
    for (size_t i = count; i < files->count; i++)
        free(files->at[i].path);
    files->count = count;
    return count;
}

static bool has_any(const struct hub_files *files, bool (*wanted)(const char *path))
{
    for (size_t i = 0; i < files->count; i++)
        if (wanted(files->at[i].path))
            return true;
    return false;
}

static bool is_weights(const char *path)
{
    return !strcmp(path, "model.safetensors") || is_shard(path);
}

static int choose_files(struct pull *p, struct bl_error *err)
{
    struct hub_files *files = &p->files;
    bool model = p->id->kind == HUB_MODEL;
    if (model && !has_any(files, is_weights)) {
        bl_fail(err, BL_EFORMAT, "expected weights as safetensors, found none among %zu files",
                files->count);
        return bl_error_remedy(err, "use a revision or a repository that has them");
    }
    size_t count = keep(files, model                        ? is_for_model
                               : has_any(files, is_parquet) ? is_parquet
                               : has_any(files, is_tar)     ? is_tar
                                                            : is_data);
    if (!count)
        return bl_fail(err, BL_EFORMAT, "expected data, found an empty data set");
    p->progress.files = (int)count;
    for (size_t i = 0; i < count; i++)
        p->progress.bytes += files->at[i].size;
    return 0;
}

/* -- a blob ----------------------------------------------------------------------------------- */

struct blob {
    struct pull *pull;
    const struct hub_file *file;
    int fd;
    uint64_t size;
    EVP_MD_CTX *hash; /* of the first `size` bytes */
};

static void blob_release(struct blob *blob)
{
    if (blob->fd >= 0)
        close(blob->fd);
    EVP_MD_CTX_free(blob->hash);
}

/* Of a git blob: "blob SIZE", a NUL, and the content. */
static bool begin_hash(struct blob *blob)
{
    char head[40];
    bool git = strlen(blob->file->etag) == 40;
    if (!blob->hash)
        blob->hash = EVP_MD_CTX_new();
    if (!blob->hash || !EVP_DigestInit_ex(blob->hash, git ? EVP_sha1() : EVP_sha256(), NULL))
        return false;
    int length = snprintf(head, sizeof head, "blob %llu", (unsigned long long)blob->file->size);
    return !git || EVP_DigestUpdate(blob->hash, head, (size_t)length + 1);
}

static bool restart(void *context)
{
    struct blob *blob = context;
    blob->pull->progress.bytes_done -= blob->size;
    blob->size = 0;
    return ftruncate(blob->fd, 0) == 0 && begin_hash(blob);
}

static bool take(void *context, const void *data, size_t size)
{
    struct blob *blob = context;
    struct pull *p = blob->pull;
    for (size_t done = 0; done < size;) {
        ssize_t n =
            pwrite(blob->fd, (const char *)data + done, size - done, (off_t)(blob->size + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    blob->size += size;
    p->progress.bytes_done += size;
    p->progress.fetched += size;
    p->options->progress(p->options->context, &p->progress);
    return EVP_DigestUpdate(blob->hash, data, size);
}

/* Takes what an interrupted download left. */
static int read_rest(struct blob *blob, struct bl_error *err)
{
    char buffer[1 << 16];
    if (!begin_hash(blob))
        return bl_fail(err, BL_ENOMEM, "no memory for a checksum");
    for (;;) {
        size_t done;
        BL_TRY(bl_file_read_at(blob->fd, blob->size, buffer, sizeof buffer, &done, err));
        if (!done)
            return 0;
        if (!EVP_DigestUpdate(blob->hash, buffer, done))
            return bl_fail(err, BL_ENOMEM, "no memory for a checksum");
        blob->size += done;
        blob->pull->progress.bytes_done += done;
    }
}

static int compare(struct blob *blob, const char *path, struct bl_error *err)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    const struct hub_file *file = blob->file;
    EVP_DigestFinal_ex(blob->hash, digest, &length);
    bl_hex(digest, length, hex);
    if (blob->size == file->size && !strcmp(hex, file->etag))
        return 0;
    unlink(path); /* to begin anew */
    if (blob->size != file->size)
        bl_fail(err, BL_EFORMAT, "expected %llu bytes, found %llu", (unsigned long long)file->size,
                (unsigned long long)blob->size);
    else
        bl_fail(err, BL_EFORMAT, "checksum mismatch: expected %.12s…, found %.12s…", file->etag,
                hex);
    bl_error_file(err, file->path);
    return bl_error_remedy(err, "it was removed; the same command fetches it again");
}

/* Under the lock: PATH.incomplete grows to the blob. */
static int fetch_blob(struct pull *p, const struct hub_file *file, const char *path,
                      struct bl_error *err)
{
    char part[4096];
    __attribute__((cleanup(blob_release))) struct blob blob = {.pull = p, .file = file, .fd = -1};
    snprintf(part, sizeof part, "%.4000s.incomplete", path);
    blob.fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (blob.fd < 0) {
        bl_fail_errno(err, "cannot be opened");
        return bl_error_file(err, part);
    }
    BL_TRY(read_rest(&blob, err));
    if (blob.size > file->size)
        restart(&blob);
    uint64_t at = blob.size;
    if (blob.size < file->size)
        BL_TRY(hub_client_read(&p->client, p->id, p->commit, file, &at, take, restart, &blob, err));
    BL_TRY(compare(&blob, part, err));
    if (fsync(blob.fd) < 0 || rename(part, path) < 0) {
        bl_fail_errno(err, "cannot be written");
        return bl_error_file(err, part);
    }
    return 0;
}

static int open_lock(struct pull *p, const char *etag, int *ret, struct bl_error *err)
{
    char cache[3000], path[4096], folder[4096];
    BL_TRY(hub_cache(cache, sizeof cache, err));
    snprintf(folder, sizeof folder, "%s/.locks/%s", cache, strrchr(p->repository, '/') + 1);
    BL_TRY(bl_folder_make(folder, err));
    snprintf(path, sizeof path, "%.4000s/%s.lock", folder, etag);
    *ret = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*ret >= 0)
        return 0;
    bl_fail_errno(err, "cannot be opened");
    return bl_error_file(err, path);
}

/* The kernel lets go of the lock when its process dies. */
static int take_lock(struct pull *p, int fd, struct bl_error *err)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        p->options->say(p->options->context,
                        "another process fetches the same file; waiting for it");
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return bl_fail_errno(err, "a lock of the Hub's cache cannot be taken");
    return 0;
}

static int need_blob(struct pull *p, const struct hub_file *file, struct bl_error *err)
{
    char path[4096];
    struct stat st;
    bl_autofd int lock = -1;
    snprintf(path, sizeof path, "%s/blobs/%s", p->repository, file->etag);
    p->progress.file = file->path;
    if (stat(path, &st) < 0) {
        BL_TRY(open_lock(p, file->etag, &lock, err));
        BL_TRY(take_lock(p, lock, err));
    }
    if (stat(path, &st) == 0)
        p->progress.bytes_done += file->size;
    else
        BL_TRY(fetch_blob(p, file, path, err));
    p->progress.files_done++;
    p->options->progress(p->options->context, &p->progress);
    return 0;
}

/* -- a snapshot ------------------------------------------------------------------------------- */

/* FOLDER/PATH -> ../../blobs/ETAG, from however deep; whole or absent. */
static int link_file(const char *folder, const struct hub_file *file, struct bl_error *err)
{
    char path[4096], made[4096 + 32], to[4096] = "../..";
    snprintf(path, sizeof path, "%s/%s", folder, file->path);
    bl_autofree char *parent = bl_path_parent(path);
    if (!parent)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    BL_TRY(bl_folder_make(parent, err));
    size_t used = strlen(to);
    for (const char *c = file->path; *c; c++)
        if (*c == '/')
            used += (size_t)snprintf(to + used, sizeof to - used, "/..");
    snprintf(to + used, sizeof to - used, "/blobs/%s", file->etag);
    snprintf(made, sizeof made, "%s.tmp.%d", path, (int)getpid());
    if ((symlink(to, made) == 0 || errno == EEXIST) && rename(made, path) == 0)
        return 0;
    bl_fail_errno(err, "cannot be made");
    return bl_error_file(err, path);
}

/* Links all files, in a folder that gets its name when it is whole; one that is there already gets what it lacks. */
static int make_snapshot(struct pull *p, char *ret, size_t size, struct bl_error *err)
{
    char made[4096];
    snprintf(ret, size, "%s/snapshots/%s", p->repository, p->commit);
    bool there = bl_path_is_folder(ret);
    snprintf(made, sizeof made, there ? "%s" : "%s.tmp.%d", ret, (int)getpid());
    for (size_t i = 0; i < p->files.count; i++)
        BL_TRY(link_file(made, &p->files.at[i], err));
    if (there || rename(made, ret) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST) {
        bl_fail_errno(err, "cannot be made");
        return bl_error_file(err, ret);
    }
    BL_TRY(bl_folder_remove(made, err)); /* another process was faster: into its folder */
    for (size_t i = 0; i < p->files.count; i++)
        BL_TRY(link_file(ret, &p->files.at[i], err));
    return 0;
}

static int write_ref(const struct pull *p, struct bl_error *err)
{
    char path[4096];
    bl_autofree char *before = NULL;
    size_t size;
    if (hub_is_commit(p->id->revision))
        return 0;
    snprintf(path, sizeof path, "%s/refs/%s", p->repository, p->id->revision);
    if (bl_file_read(path, 256, &before, &size, NULL) == 0 && !strcmp(before, p->commit))
        return 0;
    bl_autofree char *parent = bl_path_parent(path);
    if (!parent)
        return bl_fail(err, BL_ENOMEM, "no memory for a path");
    BL_TRY(bl_folder_make(parent, err));
    return bl_file_write(path, p->commit, strlen(p->commit), err);
}

/* -- all of it -------------------------------------------------------------------------------- */

static int pull_online(struct pull *p, struct hub_pulled *ret, struct bl_error *err)
{
    char blobs[4096];
    BL_TRY(hub_repository(p->id, p->repository, sizeof p->repository, err));
    BL_TRY(hub_client_open(p->options, &p->client, err));
    BL_TRY(hub_client_commit(&p->client, p->id, p->commit, err));
    BL_TRY(hub_client_files(&p->client, p->id, p->commit, &p->files, err));
    BL_TRY(choose_files(p, err));
    snprintf(blobs, sizeof blobs, "%s/blobs", p->repository);
    BL_TRY(bl_folder_make(blobs, err));
    for (size_t i = 0; i < p->files.count; i++)
        BL_TRY(need_blob(p, &p->files.at[i], err));
    BL_TRY(make_snapshot(p, ret->folder, sizeof ret->folder, err));
    BL_TRY(write_ref(p, err));
    ret->files = p->progress.files;
    ret->bytes = p->progress.bytes;
    ret->fetched = p->progress.fetched;
    return 0;
}

int hub_pull(const struct hub_id *id, const struct hub_pull_options *options,
             struct hub_pulled *ret, struct bl_error *err)
{
    struct pull p = {.id = id, .options = options, .progress = {.id = id, .file = ""}};
    *ret = (struct hub_pulled){0};
    if (hub_is_offline()) {
        if (hub_find(id, ret->folder, sizeof ret->folder))
            return 0;
        bl_fail(err, BL_EIO, "is not in the Hub's cache, and HF_HUB_OFFLINE is set");
        bl_error_remedy(err, "unset it, or set HF_HOME to a cache that has it");
        return bl_error_file(err, id->name);
    }
    int rc = pull_online(&p, ret, err);
    hub_client_close(&p.client);
    hub_files_release(&p.files);
    return rc < 0 ? bl_error_file(err, id->name) : 0;
}
