/* coordinator/epoch.c - see epoch.h. */
#include "coordinator/epoch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

#define NUMBER_BYTES_MAX 32

static void close_folder(DIR **folder)
{
    if (*folder)
        closedir(*folder);
}

/* 0: it is no number. */
static uint64_t parse_number(const char *text)
{
    char *end;
    uint64_t number = strtoull(text, &end, 10);
    return end != text && (*end == 0 || *end == '\n') ? number : 0;
}

int epoch_read(const char *run_folder, uint64_t *ret, struct bl_error *err)
{
    char path[EPOCH_PATH_MAX], text[NUMBER_BYTES_MAX + 1] = "";
    snprintf(path, sizeof path, "%s/epoch", run_folder);
    bl_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        *ret = 0;
        return 0;
    }
    if (fd < 0 || read(fd, text, NUMBER_BYTES_MAX) < 0) {
        bl_fail_errno(err, "cannot be read");
        return bl_error_file(err, path);
    }
    *ret = parse_number(text);
    if (*ret)
        return 0;
    text[strcspn(text, "\n")] = 0;
    bl_fail(err, BL_EFORMAT, "expected a number, found \"%.20s\"", text);
    bl_error_remedy(err, "write the highest number of the folders in epochs into it");
    return bl_error_file(err, path);
}

/* In place, in one piece: a number never has fewer digits than the one before. */
static int publish(const char *run_folder, uint64_t epoch, struct bl_error *err)
{
    char path[EPOCH_PATH_MAX], text[NUMBER_BYTES_MAX];
    snprintf(path, sizeof path, "%s/epoch", run_folder);
    int size = snprintf(text, sizeof text, "%" PRIu64 "\n", epoch);
    bl_autofd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd >= 0 && pwrite(fd, text, (size_t)size, 0) == size && fsync(fd) == 0)
        return 0;
    bl_fail_errno(err, "cannot be written");
    return bl_error_file(err, path);
}

typedef void epoch_visitor(void *context, uint64_t epoch);

/* Calls the visitor for each number that was ever claimed, in no order. */
static int each(const char *run_folder, epoch_visitor *visitor, void *context, struct bl_error *err)
{
    char path[EPOCH_PATH_MAX];
    snprintf(path, sizeof path, "%s/epochs", run_folder);
    __attribute__((cleanup(close_folder))) DIR *folder = opendir(path);
    if (!folder && errno == ENOENT)
        return 0;
    if (!folder) {
        bl_fail_errno(err, "cannot be read");
        return bl_error_file(err, path);
    }
    for (struct dirent *entry; (entry = readdir(folder));)
        if (parse_number(entry->d_name))
            visitor(context, parse_number(entry->d_name));
    return 0;
}

static void take_highest(void *context, uint64_t epoch)
{
    uint64_t *highest = context;
    *highest = epoch > *highest ? epoch : *highest;
}

static int find_highest(const char *run_folder, uint64_t *ret, struct bl_error *err)
{
    *ret = 0;
    return each(run_folder, take_highest, ret, err);
}

int epoch_look(const char *run_folder, uint64_t own, uint64_t *ret, struct bl_error *err)
{
    BL_TRY(epoch_read(run_folder, ret, err));
    return *ret != 0 && *ret < own ? find_highest(run_folder, ret, err) : 0;
}

static int fail_taken(const char *run_folder, struct bl_error *err)
{
    bl_fail(err, BL_ETAKEN, "another coordinator started in this run folder at the same time");
    return bl_error_file(err, run_folder);
}

/* The first number from `first` on that nobody has. */
static int make_claim(const char *run_folder, uint64_t first, uint64_t *ret, struct bl_error *err)
{
    char path[EPOCH_PATH_MAX];
    snprintf(path, sizeof path, "%s/epochs", run_folder);
    BL_TRY(bl_folder_make(path, err));
    for (*ret = first;; (*ret)++) {
        char claim[EPOCH_PATH_MAX + NUMBER_BYTES_MAX];
        snprintf(claim, sizeof claim, "%s/%" PRIu64, path, *ret);
        if (mkdir(claim, 0777) == 0)
            return bl_folder_sync(path, err);
        if (errno != EEXIST) {
            bl_fail_errno(err, "cannot be made");
            return bl_error_file(err, claim);
        }
    }
}

int epoch_claim(const char *run_folder, uint64_t *ret, struct bl_error *err)
{
    uint64_t claimed, highest, read;
    BL_TRY(find_highest(run_folder, &highest, err));
    BL_TRY(epoch_read(run_folder, &read, err));
    BL_TRY(make_claim(run_folder, (read > highest ? read : highest) + 1, &claimed, err));
    BL_TRY(publish(run_folder, claimed, err));
    /* Who claims a higher number from here on publishes it after this one. */
    BL_TRY(find_highest(run_folder, &highest, err));
    if (highest != claimed)
        return fail_taken(run_folder, err);
    *ret = claimed;
    return 0;
}

void epoch_journal_path(const char *run_folder, uint64_t epoch, char *ret)
{
    snprintf(ret, EPOCH_PATH_MAX, "%s/epochs/%" PRIu64 "/journal", run_folder, epoch);
}

struct journal_search {
    const char *run_folder;
    uint64_t below, newest;
};

static void take_journal(void *context, uint64_t epoch)
{
    struct journal_search *search = context;
    char path[EPOCH_PATH_MAX];
    epoch_journal_path(search->run_folder, epoch, path);
    if (epoch > search->newest && epoch < search->below && bl_path_is_file(path))
        search->newest = epoch;
}

int epoch_last_journal(const char *run_folder, uint64_t below, char *ret, struct bl_error *err)
{
    struct journal_search search = {.run_folder = run_folder, .below = below};
    BL_TRY(each(run_folder, take_journal, &search, err));
    *ret = 0;
    if (search.newest)
        epoch_journal_path(run_folder, search.newest, ret);
    return 0;
}

static void remove_journal(void *context, uint64_t epoch)
{
    const struct journal_search *search = context;
    char path[EPOCH_PATH_MAX];
    epoch_journal_path(search->run_folder, epoch, path);
    if (epoch < search->below)
        unlink(path); /* or it stays: the newest counts */
}

void epoch_remove_journals(const char *run_folder, uint64_t below)
{
    struct journal_search search = {.run_folder = run_folder, .below = below};
    (void)each(run_folder, remove_journal, &search, NULL); /* some space less; ignoring */
}
