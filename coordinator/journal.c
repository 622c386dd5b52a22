/* coordinator/journal.c - see journal.h. */
#include "coordinator/journal.h"

#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/random.h"

#define JOURNAL_BYTES_MAX (1u << 30)
#define LINE_MAX_BYTES 512

static const char *const record_names[] = {
#define X(name, effect) #name,
    COORD_RECORDS(X)
#undef X
};

struct line {
    struct line *next;
    uint64_t seq;
    char text[LINE_MAX_BYTES];
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
};

/* -- one line -- */

static void compose(const struct coord_record *r, char ret[LINE_MAX_BYTES])
{
    char object[LINE_MAX_BYTES - 32];
    snprintf(object, sizeof object,
             "{\"record\":\"%s\",\"generation\":%llu,\"step\":%llu,\"digest\":\"%016llx\","
             "\"world\":%u,\"code\":%u,"
             "\"via_survivors\":%s}",
             record_names[r->type], (unsigned long long)r->generation, (unsigned long long)r->step,
             (unsigned long long)r->digest, r->world, r->code, r->via_survivors ? "true" : "false");
    snprintf(ret, LINE_MAX_BYTES, "%s\t%016llx\n", object,
             (unsigned long long)bl_hash_name(object));
}

static int parse_object(const char *text, struct coord_record *ret, struct bl_error *err)
{
    json_error_t wrong;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &wrong);
    const char *name = "", *digest = "";
    json_int_t generation = 0, step = 0, world = 0, code = 0;
    int via_survivors = 0;
    int rc = json_unpack_ex(root, &wrong, 0, "{s:s, s:I, s:I, s:s, s:I, s:I, s:b}", "record", &name,
                            "generation", &generation, "step", &step, "digest", &digest, "world",
                            &world, "code", &code, "via_survivors", &via_survivors);
    if (rc < 0) {
        json_decref(root);
        return bl_fail(err, BL_EFORMAT, "%s", wrong.text);
    }
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
static int parse_line(char *line, struct coord_record *ret, struct bl_error *err)
{
    char *tab = strchr(line, '\t');
    if (!tab)
        return bl_fail(err, BL_EFORMAT, "expected an object, a tab and a checksum");
    *tab = 0;
    char expected[20];
    snprintf(expected, sizeof expected, "%016llx", (unsigned long long)bl_hash_name(line));
    if (strcmp(expected, tab + 1))
        return bl_fail(err, BL_EFORMAT, "its checksum does not fit");
    return parse_object(line, ret, err);
}

/* -- reading -- */

/* Gives every whole record to the reader; *ret_whole: bytes up to the end of the last one. */
static int read_all(const char *path, journal_reader *reader, void *context, size_t *ret_whole,
                    struct bl_error *err)
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
        *newline = 0;
        int rc = parse_line(text + at, &record, err);
        if (rc < 0 && next == size)
            break; /* the last line, torn before its newline was all there was to write */
        if (rc == 0)
            rc = reader(context, &record, err);
        if (rc < 0) {
            bl_error_key(err, "line %d", number);
            bl_error_remedy(err,
                            "start another run folder, or cut the journal off before this line");
            return bl_error_file(err, path);
        }
        at = next;
    }
    *ret_whole = at;
    return 0;
}

/* -- writing -- */

static int write_out(struct journal *j, const struct line *line, struct bl_error *err)
{
    for (; line; line = line->next) {
        size_t length = strlen(line->text);
        if (write(j->fd, line->text, length) != (ssize_t)length) {
            bl_fail_errno(err, "cannot be written");
            return bl_error_file(err, j->path);
        }
    }
    if (fdatasync(j->fd) == 0)
        return 0;
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
        BL_TRY(read_all(j->path, reader, context, &whole, err));
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
    compose(record, line->text);
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
