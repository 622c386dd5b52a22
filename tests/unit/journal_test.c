/* tests/unit/journal_test.c - what was acknowledged reads back; a torn end is cut off; damage before it is named. */
#include "tests/unit/unit.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/file.h"
#include "common/random.h"
#include "coordinator/epoch.h"
#include "coordinator/journal.h"

static char folder[64], path[80];
static struct coord_record seen[64];
static int seen_count;
static uint64_t epoch;
static _Atomic uint64_t acknowledged,
    epoch_found; /* of the writing threads: two journals are open at a time */

static int make_folder(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/blipren-journal-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/journal", folder);
    return 0;
}

static int remove_folder(void **state)
{
    return bl_folder_remove(folder, NULL);
}

static int note(void *context, const struct coord_record *record, struct bl_error *err)
{
    assert_true(seen_count < 64);
    bool own = record->type == COORD_RECORD_EPOCH && record->code == 0; /* journal_open's */
    if (own)
        epoch = record->step;
    else
        seen[seen_count++] = *record;
    return 0;
}

static void written(void *context, uint64_t seq, uint64_t epoch_now, const struct bl_error *err)
{
    if (err)
        return;
    acknowledged = seq;
    epoch_found = epoch_now;
}

static int accept(void *context, struct bl_error *err)
{
    return 0;
}

static int open_again(struct journal **ret, struct bl_error *err)
{
    seen_count = 0;
    return journal_open(folder, note, accept, written, NULL, ret, err);
}

static struct coord_record record_of(int i)
{
    return (struct coord_record){.type = (enum coord_record_type)(i % COORD_RECORD_COUNT),
                                 .generation = (uint64_t)i,
                                 .step = (uint64_t)i * 3,
                                 .digest = 0x123456789abcdef0u * (uint64_t)(i + 1),
                                 .world = (uint32_t)i,
                                 .code = 7,
                                 .via_survivors = i % 2 != 0};
}

static void write_records(int count)
{
    struct journal *j = NULL;
    struct bl_error err;
    assert_ok(open_again(&j, &err), err);
    for (int i = 0; i < count; i++) {
        struct coord_record record = record_of(i);
        journal_append(j, (uint64_t)i + 1, &record);
    }
    journal_close(&j);
    assert_null(j);
    assert_int_equal(acknowledged, count);
}

static void check_records(int count)
{
    assert_int_equal(seen_count, count);
    for (int i = 0; i < count; i++) {
        struct coord_record expected = record_of(i);
        assert_int_equal(seen[i].type, expected.type);
        assert_int_equal(seen[i].generation, expected.generation);
        assert_int_equal(seen[i].step, expected.step);
        assert_true(seen[i].digest == expected.digest);
        assert_int_equal(seen[i].world, expected.world);
        assert_int_equal(seen[i].code, expected.code);
        assert_int_equal(seen[i].via_survivors, expected.via_survivors);
    }
}

static void records_read_back_as_written(void **state)
{
    struct journal *j = NULL;
    struct bl_error err;
    write_records(20);
    assert_ok(open_again(&j, &err), err);
    journal_close(&j);
    check_records(20);
}

/* Cut at every byte: the whole lines remain, the torn one is gone from the file too. */
static void a_journal_torn_anywhere_keeps_its_whole_records(void **state)
{
    struct bl_error err;
    write_records(4);
    char *text;
    size_t size;
    assert_ok(bl_file_read(path, 1 << 20, &text, &size, &err), err);
    for (size_t cut = 0; cut <= size; cut++) {
        struct journal *j = NULL;
        assert_ok(bl_file_write(path, text, cut, &err), err);
        assert_ok(open_again(&j, &err), err);
        journal_close(&j);
        int whole = 0;
        for (size_t i = 0; i < cut; i++)
            whole += text[i] == '\n';
        check_records(whole ? whole - 1 : 0); /* the first line begins the epoch */
    }
    free(text);
}

/* batch 0: as journals had them that know no batches. */
static void append_line(uint64_t batch, int step)
{
    char text[400], number[40] = "";
    if (batch)
        snprintf(number, sizeof number, "\"batch\":%llu,", (unsigned long long)batch);
    snprintf(text, sizeof text,
             "{%s\"record\":\"COMMIT\",\"generation\":1,\"step\":%d,\"digest\":\"00\",\"world\":0,"
             "\"code\":0,\"via_survivors\":false}",
             number, step);
    FILE *f = fopen(path, "a");
    assert_non_null(f);
    fprintf(f, "%s\t%016llx\n", text, (unsigned long long)bl_hash_name(text));
    fclose(f);
}

static void a_damaged_line_before_the_end_is_named(void **state)
{
    struct bl_error err;
    struct journal *j = NULL;
    for (int step = 0; step < 4; step++)
        append_line(0, step);
    char *text;
    size_t size;
    assert_ok(bl_file_read(path, 1 << 20, &text, &size, &err), err);
    *strchr(text, ':') = ';';
    assert_ok(bl_file_write(path, text, size, &err), err);
    assert_int_equal(open_again(&j, &err), -BL_EFORMAT);
    assert_string_equal(err.key, "line 1");
    assert_string_equal(err.text, "checksum mismatch");
    assert_string_equal(err.file, path);
    free(text);
}

static void write_two_batches(void)
{
    append_line(1, 0);
    for (int step = 1; step <= 3; step++)
        append_line(2, step);
}

static void damage_line(int number)
{
    char *text;
    size_t size;
    struct bl_error err;
    assert_ok(bl_file_read(path, 1 << 20, &text, &size, &err), err);
    char *at = text;
    for (int i = 1; i < number; i++)
        at = strchr(at, '\n') + 1;
    memset(at, 0, 40); /* a page that never reached the disk */
    assert_ok(bl_file_write(path, text, size, &err), err);
    free(text);
}

static void a_batch_that_was_torn_in_its_middle_is_cut_off(void **state)
{
    struct journal *j = NULL;
    struct bl_error err = {0};
    write_two_batches();
    damage_line(3);
    assert_ok(open_again(&j, &err), err);
    assert_int_equal(seen_count, 2);
    journal_close(&j);
    assert_ok(open_again(&j, &err), err);
    assert_int_equal(seen_count, 2);
    journal_close(&j);
}

static void damage_in_a_batch_that_was_acknowledged_is_an_error(void **state)
{
    struct journal *j = NULL;
    struct bl_error err = {0};
    write_two_batches();
    damage_line(1);
    assert_int_equal(open_again(&j, &err), -BL_EFORMAT);
    assert_string_equal(err.key, "line 1");
}

static struct bl_error write_error;

static void note_error(void *context, uint64_t seq, uint64_t epoch_now, const struct bl_error *err)
{
    if (err)
        write_error = *err;
}

static void a_journal_that_is_removed_while_it_is_written_is_an_error(void **state)
{
    struct journal *j = NULL;
    struct bl_error err = {0};
    assert_ok(journal_open(folder, note, accept, note_error, NULL, &j, &err), err);
    assert_ok(bl_folder_remove(folder, &err), err);
    struct coord_record r = record_of(0);
    journal_append(j, 1, &r);
    journal_close(&j);
    assert_int_equal(write_error.code, BL_EIO);
    assert_string_equal(write_error.text, "the journal was removed during the run");
    assert_ok(bl_folder_make(folder, &err), err);
}

static void append(struct journal *j, uint64_t seq, int i)
{
    struct coord_record record = record_of(i);
    journal_append(j, seq, &record);
}

/* The first one stands still while the second takes over, then wakes and writes. */
static void what_is_written_after_a_take_over_never_counts(void **state)
{
    struct journal *first = NULL, *second = NULL, *third = NULL;
    struct bl_error err;
    assert_ok(open_again(&first, &err), err);
    append(first, 1, 0);
    journal_close(&first);
    assert_ok(open_again(&first, &err), err);
    assert_ok(open_again(&second, &err), err);
    assert_int_equal(epoch, 3);
    append(second, 1, 2);
    append(first, 1, 1);
    journal_close(&first);
    assert_int_equal(epoch_found, 3); /* by which it knows */
    journal_close(&second);
    assert_ok(open_again(&third, &err), err);
    journal_close(&third);
    assert_int_equal(seen_count, 2);
    assert_int_equal(seen[0].generation, 0);
    assert_int_equal(seen[1].generation, 2);
}

static void a_probe_tells_whose_the_run_is(void **state)
{
    struct journal *first = NULL, *second = NULL;
    struct bl_error err;
    assert_ok(open_again(&first, &err), err);
    append(first, 7, 0);
    assert_ok(open_again(&second, &err), err);
    journal_probe(first);
    journal_close(&first);
    assert_int_equal(acknowledged, 7);
    assert_int_equal(epoch_found, 2);
    journal_close(&second);
}

static void a_journal_of_a_version_without_epochs_is_taken_over(void **state)
{
    struct journal *j = NULL;
    struct bl_error err = {0};
    struct stat is;
    append_line(1, 0);
    append_line(2, 1);
    assert_ok(open_again(&j, &err), err);
    assert_int_equal(seen_count, 2);
    assert_int_equal(epoch, 1);
    journal_close(&j);
    assert_int_equal(lstat(path, &is), 0);
    assert_true(S_ISLNK(is.st_mode));
    assert_ok(open_again(&j, &err), err);
    assert_int_equal(seen_count, 2);
    journal_close(&j);
}

static int refuse(void *context, struct bl_error *err)
{
    return bl_fail(err, BL_ECONFIG, "another run's");
}

static void a_start_that_the_records_refuse_takes_the_run_from_nobody(void **state)
{
    struct journal *j = NULL, *other = NULL;
    struct bl_error err;
    uint64_t now;
    write_records(1);
    assert_ok(open_again(&j, &err), err);
    assert_int_equal(journal_open(folder, note, refuse, written, NULL, &other, &err), -BL_ECONFIG);
    assert_ok(epoch_read(folder, &now, &err), err);
    assert_int_equal(now, 2);
    journal_close(&j);
}

static void a_number_that_was_claimed_once_is_nobody_elses(void **state)
{
    uint64_t claimed, now;
    char claim[100];
    struct bl_error err;
    snprintf(claim, sizeof claim, "%s/epochs/4", folder);
    assert_ok(bl_folder_make(claim, &err), err);
    assert_ok(epoch_claim(folder, &claimed, &err), err);
    assert_int_equal(claimed, 5);
    assert_ok(epoch_read(folder, &now, &err), err);
    assert_int_equal(now, 5);
}

static void a_start_that_lost_and_writes_its_number_last_takes_the_run_from_nobody(void **state)
{
    struct journal *j = NULL;
    struct bl_error err;
    char file[100];
    uint64_t now;
    write_records(1);
    assert_ok(open_again(&j, &err), err); /* its epoch is 2 */
    snprintf(file, sizeof file, "%s/epoch", folder);
    assert_ok(bl_file_write(file, "1\n", 2, &err), err);
    assert_ok(epoch_look(folder, 2, &now, &err), err);
    assert_int_equal(now, 2);
    snprintf(file, sizeof file, "%s/epochs/3", folder);
    assert_ok(bl_folder_make(file, &err), err);
    assert_ok(epoch_look(folder, 2, &now, &err), err);
    assert_int_equal(now, 3);
    journal_close(&j);
}

static struct journal *quicker;
static uint64_t epoch_of_the_quicker;

/* Another start claims and begins after this one has read the records, and before it claims. */
static int begin_another(void *context, struct bl_error *err)
{
    int rc = journal_open(folder, note, accept, written, NULL, &quicker, err);
    epoch_of_the_quicker = epoch;
    return rc;
}

static void of_two_starts_at_a_time_the_later_one_goes_on(void **state)
{
    struct journal *j = NULL;
    struct bl_error err;
    uint64_t now;
    write_records(1);
    seen_count = 0;
    assert_ok(journal_open(folder, note, begin_another, written, NULL, &j, &err), err);
    assert_int_equal(epoch, epoch_of_the_quicker + 1);
    assert_ok(epoch_look(folder, epoch, &now, &err), err);
    assert_int_equal(now, epoch);
    assert_ok(epoch_look(folder, epoch_of_the_quicker, &now, &err), err);
    assert_int_equal(now, epoch);
    journal_close(&quicker);
    journal_close(&j);
}

/* A start in a process of its own: 1 if it owns the run once all others are through with theirs too, which `go` tells. */
static int start_and_look(int go, int done)
{
    struct journal *j = NULL;
    struct bl_error err;
    uint64_t now = 0;
    char byte;
    int rc = open_again(&j, &err);
    if (write(done, "", 1) != 1 || read(go, &byte, 1) != 1)
        return 2;
    if (rc == 0 && epoch_look(folder, epoch, &now, &err) < 0)
        return 2;
    return rc == 0 && now == epoch;
}

static void of_many_starts_at_a_time_one_owns_the_run(void **state)
{
    enum { STARTS = 6 };
    int go[2], done[2], owners = 0;
    pid_t children[STARTS];
    char bytes[STARTS] = {0};
    assert_return_code(pipe(go), 0);
    assert_return_code(pipe(done), 0);
    for (int i = 0; i < STARTS; i++) {
        children[i] = fork();
        if (children[i] == 0)
            _exit(start_and_look(go[0], done[1]));
    }
    for (int i = 0; i < STARTS; i++)
        assert_int_equal(read(done[0], bytes, 1), 1);
    assert_int_equal(write(go[1], bytes, STARTS), STARTS);
    for (int i = 0; i < STARTS; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
        owners += WEXITSTATUS(status);
    }
    for (int i = 0; i < 2; i++) {
        close(go[i]);
        close(done[i]);
    }
    assert_int_equal(owners, 1);
}

static void a_spoilt_epoch_is_named(void **state)
{
    char file[100];
    uint64_t now;
    struct bl_error err;
    snprintf(file, sizeof file, "%s/epoch", folder);
    assert_ok(bl_file_write(file, "seven\n", 6, &err), err);
    assert_int_equal(epoch_read(folder, &now, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "expected a number, found \"seven\"");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
UNIT_MAIN(CASE(records_read_back_as_written), CASE(a_journal_torn_anywhere_keeps_its_whole_records),
          CASE(a_damaged_line_before_the_end_is_named),
          CASE(a_batch_that_was_torn_in_its_middle_is_cut_off),
          CASE(damage_in_a_batch_that_was_acknowledged_is_an_error),
          CASE(a_journal_that_is_removed_while_it_is_written_is_an_error),
          CASE(what_is_written_after_a_take_over_never_counts),
          CASE(a_probe_tells_whose_the_run_is),
          CASE(a_journal_of_a_version_without_epochs_is_taken_over),
          CASE(a_start_that_the_records_refuse_takes_the_run_from_nobody),
          CASE(a_number_that_was_claimed_once_is_nobody_elses),
          CASE(a_start_that_lost_and_writes_its_number_last_takes_the_run_from_nobody),
          CASE(of_two_starts_at_a_time_the_later_one_goes_on),
          CASE(of_many_starts_at_a_time_one_owns_the_run), CASE(a_spoilt_epoch_is_named))
