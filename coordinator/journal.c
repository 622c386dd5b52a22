/* coordinator/journal.c - see journal.h. */
#include "coordinator/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/random.h"

#define JOURNAL_BYTES_MAX (1u << 30)
#define LINE_MAX_BYTES 512
#define BATCH_LINES_MAX 64 /* of one write */

static const char *const record_names[] = {
#define X(name, effect) #name,
    COORD_RECORDS(X)
#undef X
};

struct line {
    struct line *next;
    uint64_t seq;
    struct coord_record record;
};

struct journal {
    char path[4096];
    int fd;
    journal_written *written;
    void *context;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct line *first, **end;
    bool stop;
    uint64_t batch; /* of the lines that are written and synced together; the writer's */
};

/* -- one line -- */

static void compose(const struct coord_record *r, uint64_t batch, char ret[LINE_MAX_BYTES])
{
    char object[LINE_MAX_BYTES - 32];
    snprintf(object, sizeof object,
             "{\"batch\":%llu,\"record\":\"%s\",\"generation\":%llu,\"step\":%llu,\"digest\":\"%"
             "016llx\","
             "\"world\":%u,\"code\":%u,"
             "\"via_survivors\":%s}",
             (unsigned long long)batch, record_names[r->type], (unsigned long long)r->generation,
             (unsigned long long)r->step, (unsigned long long)r->digest, r->world, r->code,
             r->via_survivors ? "true" : "false");
    snprintf(ret, LINE_MAX_BYTES, "%s\t%016llx\n", object,
             (unsigned long long)bl_hash_name(object));
}

static int parse_object(const char *text, struct coord_record *ret, uint64_t *ret_batch,
                        struct bl_error *err)
{
    json_error_t wrong;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &wrong);
    const char *name = "", *digest = "";
    json_int_t batch = 0, generation = 0, step = 0, world = 0, code = 0;
    int via_survivors = 0;
    int rc =
        json_unpack_ex(root, &wrong, 0, "{s?I, s:s, s:I, s:I, s:s, s:I, s:I, s:b}", "batch", &batch,
                       "record", &name, "generation", &generation, "step", &step, "digest", &digest,
                       "world", &world, "code", &code, "via_survivors", &via_survivors);
    if (rc < 0) {
        json_decref(root);
        return bl_fail(err, BL_EFORMAT, "%s", wrong.text);
    }
    *ret_batch = (uint64_t)batch;
    *ret = (struct coord_record){.type = COORD_RECORD_COUNT,
                                 .generation = (uint64_t)generation,
                                 .step = (uint64_t)step,
                                 .digest = strtoull(digest, NULL, 16),
                                 .world = (uint32_t)world,
                                 .code = (uint32_t)code,
                                 .via_survivors = via_survivors};
    for (int i = 0; i < COORD_RECORD_COUNT; i++)
        if (!strcmp(name, record_names[i]))
            ret->type = (enum coord_record_type)i;
    json_decref(root);
    return ret->type < COORD_RECORD_COUNT ? 0 : bl_fail(err, BL_EFORMAT, "unknown record");
}

/* A line without its newline; NUL-terminated, changed. */
static int parse_line(char *line, struct coord_record *ret, uint64_t *ret_batch,
                      struct bl_error *err)
{
    char *tab = strchr(line, '\t');
    if (!tab)
        return bl_fail(err, BL_EFORMAT, "expected an object, a tab and a checksum");
    *tab = 0;
    char expected[20];
    snprintf(expected, sizeof expected, "%016llx", (unsigned long long)bl_hash_name(line));
    if (strcmp(expected, tab + 1))
        return bl_fail(err, BL_EFORMAT, "checksum mismatch");
    return parse_object(line, ret, ret_batch, err);
}

/* -- reading -- */

/* Were the lines of text, after a damaged one, all written together with it? Then they were never synced, and so never
 * counted: the next batch is written only after that. `before`: batch of the last line that is whole. Lines of a journal
 * without batches were synced one by one. */
static bool is_torn_batch(char *text, size_t size, uint64_t before)
{
    uint64_t torn = 0;
    for (size_t at = 0; at < size;) {
        char *newline = memchr(text + at, '\n', size - at);
        if (!newline)
            return true;
        struct coord_record record;
        uint64_t batch;
        *newline = 0;
        if (parse_line(text + at, &record, &batch, NULL) == 0) {
            if (batch == 0 || batch > before + 1 || (torn && batch != torn))
                return false;
            torn = batch;
        }
        at = (size_t)(newline - text) + 1;
    }
    return true;
}

/* Gives every whole record to the reader; *ret_whole: bytes up to the end of the last one; *ret_batch: its batch. */
static int read_all(const char *path, journal_reader *reader, void *context, size_t *ret_whole,
                    uint64_t *ret_batch, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size;
    BL_TRY(bl_file_read(path, JOURNAL_BYTES_MAX, &text, &size, err));
    size_t at = 0;
    for (int number = 1; at < size; number++) {
        char *newline = memchr(text + at, '\n', size - at);
        if (!newline)
            break;
        size_t next = (size_t)(newline - text) + 1;
        struct coord_record record;
        uint64_t batch;
        *newline = 0;
        int rc = parse_line(text + at, &record, &batch, err);
        /* Without a whole record before it, it is rather no journal of ours. */
        if (rc < 0 && at > 0 && is_torn_batch(text + next, size - next, *ret_batch))
            break;
        if (rc == 0)
            rc = reader(context, &record, err);
        if (rc < 0) {
            bl_error_key(err, "line %d", number);
            bl_error_remedy(err,
                            "start another run folder, or cut the journal off before this line");
            return bl_error_file(err, path);
        }
        *ret_batch = batch ? batch : *ret_batch;
        at = next;
    }
    *ret_whole = at;
    return 0;
}

/* -- writing -- */

/* The run folder may have been removed, or another put in its place: what is written then is lost. */
static int check_place(const struct journal *j, struct bl_error *err)
{
    struct stat mine, there;
    if (fstat(j->fd, &mine) == 0 && stat(j->path, &there) == 0 && mine.st_ino == there.st_ino &&
        mine.st_dev == there.st_dev)
        return 0;
    bl_fail(err, BL_EIO, "the journal was removed during the run");
    bl_error_remedy(err, "start the run anew; what was trained since the last checkpoint is lost");
    return bl_error_file(err, j->path);
}

static int write_whole(const struct journal *j, const char *text, size_t size, struct bl_error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(j->fd, text + done, size - done);
        if (n < 0 && errno != EINTR) {
            bl_fail_errno(err, "cannot be written");
            return bl_error_file(err, j->path);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Writes these lines, synced together. */
static int write_out(struct journal *j, const struct line *line, struct bl_error *err)
{
    char text[BATCH_LINES_MAX * LINE_MAX_BYTES];
    j->batch++;
    while (line) {
        size_t size = 0;
        for (int i = 0; line && i < BATCH_LINES_MAX; i++, line = line->next) {
            compose(&line->record, j->batch, text + size);
            size += strlen(text + size);
        }
        BL_TRY(write_whole(j, text, size, err));
    }
    if (fdatasync(j->fd) == 0)
        return check_place(j, err);
    bl_fail_errno(err, "cannot be synced to disk");
    return bl_error_file(err, j->path);
}

static void *writer(void *argument)
{
    struct journal *j = argument;
    bool failed = false;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        while (!j->first && !j->stop)
            pthread_cond_wait(&j->changed, &j->lock);
        struct line *lines = j->first;
        j->first = NULL;
        j->end = &j->first;
        if (!lines)
            break;
        pthread_mutex_unlock(&j->lock);
        struct bl_error err;
        uint64_t seq = 0;
        int rc = failed ? 0 : write_out(j, lines, &err);
        for (struct line *line = lines, *next; line; line = next) {
            next = line->next;
            seq = line->seq;
            free(line);
        }
        if (!failed)
            j->written(j->context, seq, rc < 0 ? &err : NULL);
        failed = failed || rc < 0;
        pthread_mutex_lock(&j->lock);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

int journal_open(const char *run_folder, journal_reader *reader, journal_written *written,
                 void *context, struct journal **ret, struct bl_error *err)
{
    bl_autofree struct journal *j = calloc(1, sizeof *j);
    if (!j)
        return bl_fail(err, BL_ENOMEM, "no memory for the journal");
    j->end = &j->first;
    j->written = written;
    j->context = context;
    size_t whole = 0;
    BL_TRY(bl_path_join(j->path, sizeof j->path, run_folder, "journal", err));
    if (bl_path_is_file(j->path))
        BL_TRY(read_all(j->path, reader, context, &whole, &j->batch, err));
    bl_autofd int fd = open(j->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, (off_t)whole) < 0 || fsync(fd) < 0) {
        bl_fail_errno(err, "cannot be written");
        return bl_error_file(err, j->path);
    }
    BL_TRY(bl_folder_sync(run_folder, err));
    j->fd = fd;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->changed, NULL);
    if (pthread_create(&j->thread, NULL, writer, j) != 0)
        return bl_fail(err, BL_ENOMEM, "no thread for the journal");
    fd = -1;
    *ret = bl_take(&j);
    return 0;
}

void journal_append(struct journal *j, uint64_t seq, const struct coord_record *record)
{
    struct line *line = calloc(1, sizeof *line);
    BL_ASSERT(line != NULL);
    line->seq = seq;
    line->record = *record;
    pthread_mutex_lock(&j->lock);
    *j->end = line;
    j->end = &line->next;
    pthread_cond_signal(&j->changed);
    pthread_mutex_unlock(&j->lock);
}

void journal_close(struct journal **journal)
{
    struct journal *j = *journal;
    if (!j)
        return;
    pthread_mutex_lock(&j->lock);
    j->stop = true;
    pthread_cond_signal(&j->changed);
    pthread_mutex_unlock(&j->lock);
    pthread_join(j->thread, NULL);
    close(j->fd);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->changed);
    free(j);
    *journal = NULL;
}
