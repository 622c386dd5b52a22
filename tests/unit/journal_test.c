/* tests/unit/journal_test.c - what was acknowledged reads back; a torn end is cut off; damage before it is named. */
#include "tests/unit/unit.h"

#include "common/file.h"
#include "common/random.h"
#include "coordinator/journal.h"

static char folder[64], path[80];
static struct coord_record seen[64];
static int seen_count;
static uint64_t acknowledged;

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
    seen[seen_count++] = *record;
    return 0;
}

static void written(void *context, uint64_t seq, const struct bl_error *err)
{
    if (!err)
        acknowledged = seq;
}

static int open_again(struct journal **ret, struct bl_error *err)
{
    seen_count = 0;
    return journal_open(folder, note, written, NULL, ret, err);
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
        check_records(whole);
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

static void note_error(void *context, uint64_t seq, const struct bl_error *err)
{
    if (err)
        write_error = *err;
}

static void a_journal_that_is_removed_while_it_is_written_is_an_error(void **state)
{
    struct journal *j = NULL;
    struct bl_error err = {0};
    assert_ok(journal_open(folder, note, note_error, NULL, &j, &err), err);
    assert_ok(bl_folder_remove(folder, &err), err);
    struct coord_record r = record_of(0);
    journal_append(j, 1, &r);
    journal_close(&j);
    assert_int_equal(write_error.code, BL_EIO);
    assert_string_equal(write_error.text, "the journal was removed during the run");
    assert_ok(bl_folder_make(folder, &err), err);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
UNIT_MAIN(CASE(records_read_back_as_written), CASE(a_journal_torn_anywhere_keeps_its_whole_records),
          CASE(a_damaged_line_before_the_end_is_named),
          CASE(a_batch_that_was_torn_in_its_middle_is_cut_off),
          CASE(damage_in_a_batch_that_was_acknowledged_is_an_error),
          CASE(a_journal_that_is_removed_while_it_is_written_is_an_error))
