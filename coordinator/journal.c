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
#include "coordinator/epoch.h"

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
    char run_folder[4096];
    char path[EPOCH_PATH_MAX], own[EPOCH_PATH_MAX]; /* RUN/journal; what it is a link to */
    uint64_t epoch;
    int fd;
    journal_written *written;
    void *context;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct line *first, **end;
    bool stop, probe;
    uint64_t written_seq;
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

/* What a journal holds. */
struct text {
    char *bytes;
    size_t size, whole; /* whole: up to the end of the last whole record that was read */
    int lines;
    uint64_t batch; /* of the last whole record */
};

static void text_release(struct text *text)
{
    free(text->bytes);
}

/* Gives the whole records that are not read yet to the reader. path: for messages. */
static int read_on(struct text *text, const char *path, journal_reader *reader, void *context,
                   struct bl_error *err)
{
    while (text->whole < text->size) {
        char *line = text->bytes + text->whole;
        char *newline = memchr(line, '\n', text->size - text->whole);
        if (!newline)
            break;
        size_t next = (size_t)(newline - text->bytes) + 1;
        struct coord_record record;
        uint64_t batch;
        bl_autofree char *copy = strndup(line, (size_t)(newline - line)); /* parsing changes it */
        int rc =
            copy ? parse_line(copy, &record, &batch, err) : bl_fail(err, BL_ENOMEM, "no memory");
        /* Without a whole record before it, it is rather no journal of ours. */
        if (rc < 0 && text->whole > 0 &&
            is_torn_batch(text->bytes + next, text->size - next, text->batch))
            break;
        if (rc == 0)
            rc = reader(context, &record, err);
        if (rc < 0) {
            bl_error_key(err, "line %d", text->lines + 1);
            bl_error_remedy(err,
                            "start another run folder, or cut the journal off before this line");
            return bl_error_file(err, path);
        }
        text->batch = batch ? batch : text->batch;
        text->whole = next;
        text->lines++;
    }
    return 0;
}

/* Where the records so far are: RUN/journal itself if it is a file of its own, else the newest epoch's below `below`. "": there
 * are none. */
static int find_records(const struct journal *j, uint64_t below, char *ret, struct bl_error *err)
{
    struct stat there;
    if (lstat(j->path, &there) == 0 && !S_ISLNK(there.st_mode)) {
        memcpy(ret, j->path, EPOCH_PATH_MAX);
        return 0;
    }
    return epoch_last_journal(j->run_folder, below, ret, err);
}

/* Reads the file anew, and on from where text ends, which it has to begin with. */
static int read_file(struct text *text, const char *file, const struct journal *j,
                     journal_reader *reader, void *context, struct bl_error *err)
{
    if (!*file)
        return 0;
    bl_autofree char *before = bl_take(&text->bytes);
    if (bl_file_read(file, JOURNAL_BYTES_MAX, &text->bytes, &text->size, err) < 0)
        return bl_error_file(err, j->path);
    if (text->size < text->whole ||
        (text->whole > 0 && memcmp(before, text->bytes, text->whole) != 0)) {
        bl_fail(err, BL_ETAKEN,
                "became another's while it was read: another coordinator started at the same time");
        return bl_error_file(err, j->path);
    }
    return read_on(text, j->path, reader, context, err);
}

/* First the records are read, so that a start that they do not fit takes the run from nobody; then the epoch is claimed; then what was
 * written meanwhile is read. All that counts was on disk before the claim (J3). */
static int read_and_claim(struct journal *j, struct text *text, journal_reader *reader,
                          journal_judge *judge, void *context, struct bl_error *err)
{
    char before[EPOCH_PATH_MAX], after[EPOCH_PATH_MAX];
    BL_TRY(find_records(j, UINT64_MAX, before, err));
    BL_TRY(read_file(text, before, j, reader, context, err));
    BL_TRY(judge(context, err));
    BL_TRY(epoch_claim(j->run_folder, &j->epoch, err));
    BL_TRY(find_records(j, j->epoch, after, err));
    /* Another one may have begun since: then it loses the run, and its journal is a copy of what was read, and more. */
    return read_file(text, after, j, reader, context, err);
}

/* -- writing -- */

/* The run folder may have been removed, or another put in its place: what is written then is lost. */
static int check_place(const struct journal *j, struct bl_error *err)
{
    struct stat mine, there;
    if (fstat(j->fd, &mine) == 0 && stat(j->own, &there) == 0 && mine.st_ino == there.st_ino &&
        mine.st_dev == there.st_dev)
        return 0;
    bl_fail(err, BL_EIO, "the journal was removed during the run");
    bl_error_remedy(
        err, "start the run from scratch; what was trained since the last checkpoint is lost");
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
        return 0;
    bl_fail_errno(err, "cannot be synced to disk");
    return bl_error_file(err, j->path);
}

/* Whose the run is, now that everything written is on disk. */
static int look_at_epoch(const struct journal *j, uint64_t *ret, struct bl_error *err)
{
    BL_TRY(epoch_look(j->run_folder, j->epoch, ret, err));
    bool taken = *ret != j->epoch && *ret != 0; /* 0: the folder is gone */
    return taken ? 0 : check_place(j, err);
}

static void *writer(void *argument)
{
    struct journal *j = argument;
    bool failed = false;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        while (!j->first && !j->stop && !j->probe)
            pthread_cond_wait(&j->changed, &j->lock);
        struct line *lines = j->first;
        bool probe = j->probe;
        j->probe = false;
        j->first = NULL;
        j->end = &j->first;
        if (!lines && !probe)
            break;
        pthread_mutex_unlock(&j->lock);
        struct bl_error err;
        uint64_t epoch = 0;
        int rc = failed || !lines ? 0 : write_out(j, lines, &err);
        if (!failed && rc == 0)
            rc = look_at_epoch(j, &epoch, &err);
        for (struct line *line = lines, *next; line; line = next) {
            next = line->next;
            j->written_seq = line->seq;
            free(line);
        }
        if (!failed)
            j->written(j->context, j->written_seq, epoch, rc < 0 ? &err : NULL);
        failed = failed || rc < 0 || epoch != j->epoch;
        pthread_mutex_lock(&j->lock);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* RUN/journal becomes a link to this epoch's. */
static int point_to_own(const struct journal *j, struct bl_error *err)
{
    char target[64], temporary[EPOCH_PATH_MAX + 8];
    snprintf(target, sizeof target, "epochs/%llu/journal", (unsigned long long)j->epoch);
    snprintf(temporary, sizeof temporary, "%s.new", j->path);
    unlink(temporary);
    if (symlink(target, temporary) < 0 || rename(temporary, j->path) < 0) {
        bl_fail_errno(err, "cannot be written");
        return bl_error_file(err, j->path);
    }
    return bl_folder_sync(j->run_folder, err);
}

/* The epoch's journal: what counts so far, and that the epoch begins. Whole before RUN/journal names it. */
static int write_own(struct journal *j, const struct text *text, struct bl_error *err)
{
    bl_autowriter struct bl_file_writer file = {.fd = -1};
    char line[LINE_MAX_BYTES];
    compose(&(struct coord_record){.type = COORD_RECORD_EPOCH, .step = j->epoch}, ++j->batch, line);
    BL_TRY(bl_file_writer_open(&file, j->own, err));
    if (text->whole)
        BL_TRY(bl_file_writer_write(&file, text->bytes, text->whole, err));
    BL_TRY(bl_file_writer_write(&file, line, strlen(line), err));
    BL_TRY(bl_file_writer_commit(&file, err));
    return point_to_own(j, err);
}

/* The run is ours: nothing that this process does has left it yet. */
static int begin(struct journal *j, const struct text *text, struct bl_error *err)
{
    uint64_t newest;
    BL_TRY(write_own(j, text, err));
    bl_autofd int fd = open(j->own, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) {
        bl_fail_errno(err, "cannot be written");
        return bl_error_file(err, j->path);
    }
    BL_TRY(epoch_look(j->run_folder, j->epoch, &newest, err));
    if (newest != j->epoch) {
        bl_fail(err, BL_ETAKEN, "another coordinator has taken the run over");
        return bl_error_file(err, j->run_folder);
    }
    epoch_remove_journals(j->run_folder, j->epoch);
    j->fd = fd;
    fd = -1;
    return 0;
}

int journal_open(const char *run_folder, journal_reader *reader, journal_judge *judge,
                 journal_written *written, void *context, struct journal **ret,
                 struct bl_error *err)
{
    __attribute__((cleanup(text_release))) struct text text = {0};
    bl_autofree struct journal *j = calloc(1, sizeof *j);
    if (!j)
        return bl_fail(err, BL_ENOMEM, "no memory for the journal");
    j->end = &j->first;
    j->written = written;
    j->context = context;
    snprintf(j->run_folder, sizeof j->run_folder, "%s", run_folder);
    BL_TRY(bl_path_join(j->path, sizeof j->path, run_folder, "journal", err));
    BL_TRY(read_and_claim(j, &text, reader, judge, context, err));
    j->batch = text.batch;
    epoch_journal_path(run_folder, j->epoch, j->own);
    struct coord_record began = {.type = COORD_RECORD_EPOCH, .step = j->epoch};
    if (reader(context, &began, err) < 0)
        return bl_error_file(err, j->path);
    BL_TRY(begin(j, &text, err));
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->changed, NULL);
    if (pthread_create(&j->thread, NULL, writer, j) != 0) {
        close(j->fd);
        return bl_fail(err, BL_ENOMEM, "no thread for the journal");
    }
    *ret = bl_take(&j);
    return 0;
}

void journal_forget(const char *run_folder)
{
    char path[EPOCH_PATH_MAX];
    epoch_remove_journals(run_folder, UINT64_MAX);
    if (bl_path_join(path, sizeof path, run_folder, "journal", NULL) == 0)
        unlink(path);
}

void journal_probe(struct journal *j)
{
    pthread_mutex_lock(&j->lock);
    j->probe = true;
    pthread_cond_signal(&j->changed);
    pthread_mutex_unlock(&j->lock);
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
