/* tests/unit/sample_test.c - a loader's samples: what voids one, what is tried again, and the proof that a host sees the images. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file_hash.h"
#include "loader/fetch.h"
#include "loader/sample.h"
#include "tests/unit/folder.h"

enum { IMAGES = 3, SIDE = 64 };
static struct sample_source *source;
static uint8_t run[RUN_ID_BYTES];
static struct rlimit files; /* as it was at the start */

/* With a byte behind its end, which no decoder looks at. */
static void copy_image(const char *golden, const char *name)
{
    struct bl_error err;
    char from[512];
    bl_autofree char *data = NULL;
    size_t size;
    snprintf(from, sizeof from, "%s/tests/golden/image/%s", getenv("BLIPREN_SOURCE"), golden);
    assert_ok(bl_file_read(from, 1 << 24, &data, &size, &err), err);
    assert_ok(bl_file_write(inside(name), data, size + 1, &err), err);
}

static void write_text(const char *name, const char *text)
{
    struct bl_error err;
    assert_ok(bl_file_write(inside(name), text, strlen(text), &err), err);
}

static void make_index(const char *keys)
{
    struct bl_error err;
    char yaml[2048];
    struct config *config = NULL;
    struct dataset *dataset = NULL;
    const char *root = getenv("BLIPREN_SOURCE");
    int size = snprintf(yaml, sizeof yaml,
                        "run_dir: run\nvision: {path: %s/deploy/demo/models/vision}\n"
                        "llm: {path: %s/deploy/demo/models/llm}\ntrain: {steps: 1}\n"
                        "data: {source: data, validation: 0%s}\n",
                        root, root, keys);
    assert_ok(config_parse(yaml, (size_t)size, "run.yaml", folder, &config, &err), err);
    write_text("run/config.yaml", config->text);
    assert_ok(dataset_prepare(config, NULL, NULL, &dataset, NULL, &err), err);
    assert_int_equal(dataset_samples(dataset), IMAGES);
    assert_ok(run_id(inside("run"), true, run, &err), err);
    dataset_free(&dataset);
    config_free(&config);
}

/* How often a sample waited for a file; at the `lift_at`-th the limit on open files is lifted. */
static struct {
    int waits, lift_at, stop_at;
} patience;

static bool count_wait(void *context, uint32_t ms)
{
    patience.waits++;
    if (patience.waits == patience.lift_at)
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    return patience.waits != patience.stop_at;
}

static int make_run_with(void **state, const char *keys)
{
    struct bl_error err;
    const struct location_patience waiting = {count_wait, NULL};
    if (make_folder(state) < 0 || bl_folder_make(inside("data"), NULL) < 0 ||
        bl_folder_make(inside("run"), NULL) < 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
        return -1;
    copy_image("grey.jpg", "data/0.jpg");
    copy_image("palette-8.png", "data/1.png");
    write_text("data/2.jpg", "no picture");
    write_text("data/metadata.jsonl", "{\"file_name\": \"0.jpg\", \"text\": \"a red circle\"}\n"
                                      "{\"file_name\": \"1.png\", \"text\": \"a red circle\"}\n"
                                      "{\"file_name\": \"2.jpg\", \"text\": \"a red circle\"}\n");
    make_index(keys);
    assert_ok(sample_source_open(inside("run"), run, NULL, "", &waiting, &source, &err), err);
    memset(&patience, 0, sizeof patience);
    return 0;
}

static int make_run(void **state)
{
    return make_run_with(state, "");
}

/* The images are 23 x 17 pixels. */
static int make_run_of_18(void **state)
{
    return make_run_with(state, ", min_side: 18");
}

static int make_run_of_17(void **state)
{
    return make_run_with(state, ", min_side: 17");
}

static int remove_run(void **state)
{
    setrlimit(RLIMIT_NOFILE, &files);
    sample_source_free(&source);
    return remove_folder(state);
}

/* From here on no file can be opened: EMFILE. */
static void use_up_files(void)
{
    int next = dup(STDIN_FILENO);
    struct rlimit none = {(rlim_t)next, files.rlim_max};
    close(next);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
}

static int make(uint64_t id, struct bl_error *err)
{
    static uint8_t pixels[SIDE * SIDE * 3];
    struct token_ids ids = {0};
    struct sample_info info;
    assert_int_equal(sample_side(source) <= SIDE, true);
    int rc = sample_make(source, id, 0, pixels, &ids, &info, err);
    assert_int_equal(ids.count > 0, rc == 0);
    token_ids_release(&ids);
    return rc;
}

static void a_passing_fault_is_waited_for(void **state)
{
    struct bl_error err = {0};
    patience.lift_at = 3;
    use_up_files();
    assert_ok(make(0, &err), err);
    assert_int_equal(patience.waits, 3);
}

static void a_fault_that_stays_is_the_loaders_and_voids_no_sample(void **state)
{
    struct bl_error err = {0};
    use_up_files();
    assert_true(make(0, &err) < 0);
    assert_int_equal(location_failure_of(&err), LOCATION_PASSING);
    assert_string_equal(err.text, "cannot be opened: Too many open files (tried 10 times)");
    assert_string_equal(err.file, inside("data/0.jpg"));
    assert_int_equal(patience.waits, 9);
    patience.waits = 0;
    patience.stop_at = 2;
    assert_int_equal(make(0, &err), -BL_ESTOPPED);
}

static void expect_failure(uint64_t id, enum location_failure expected)
{
    struct bl_error err = {0};
    assert_true(make(id, &err) < 0);
    assert_int_equal(location_failure_of(&err), expected);
    assert_int_equal(patience.waits, 0);
}

static void bytes_that_are_bad_and_files_that_are_missed_here_are_told_apart(void **state)
{
    expect_failure(2, LOCATION_BAD);
    write_text("data/0.jpg", "changed");
    expect_failure(0, LOCATION_UNREADABLE);
    assert_int_equal(unlink(inside("data/0.jpg")), 0);
    expect_failure(0, LOCATION_UNREADABLE);
    assert_int_equal(mkdir(inside("data/0.jpg"), 0777), 0);
    expect_failure(0, LOCATION_UNREADABLE);
}

static void put_back_time(const char *path, const struct stat *st)
{
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Content behind an unchanged size and time is found before the first use, and not looked for after it. */
static void bytes_are_hashed_until_they_were_right_once(void **state)
{
    struct bl_error err = {0};
    struct stat st;
    char path[256];
    snprintf(path, sizeof path, "%s", inside("data/1.png"));
    assert_int_equal(stat(path, &st), 0);
    int fd = open(path, O_RDWR);
    uint8_t last, other;
    assert_int_equal(pread(fd, &last, 1, st.st_size - 1), 1);
    other = last ^ 1;
    assert_int_equal(pwrite(fd, &other, 1, st.st_size - 1), 1);
    put_back_time(path, &st);
    expect_failure(1, LOCATION_UNREADABLE);
    assert_int_equal(pwrite(fd, &last, 1, st.st_size - 1), 1);
    put_back_time(path, &st);
    assert_ok(make(1, &err), err);
    assert_int_equal(pwrite(fd, &other, 1, st.st_size - 1), 1);
    assert_true(make(1, &err) < 0); /* another time: hashed again */
    assert_int_equal(err.code, BL_EDATA);
    put_back_time(path, &st);
    assert_ok(make(1, &err), err); /* not hashed again */
    close(fd);
}

static void a_probe_gives_the_hashes_of_what_is_read_here(void **state)
{
    static const uint64_t ids[] = {2, 0, 1, IMAGES};
    uint64_t hashes[4], expected;
    struct bl_error why, err = {0};
    char hex[65];
    assert_ok(bl_file_sha256(inside("data/2.jpg"), hex, &err), err);
    assert_int_equal(unlink(inside("data/1.png")), 0);
    assert_ok(sample_probe(source, ids, 4, hashes, &why, &err), err);
    assert_int_equal(sscanf(hex, "%16llx", (unsigned long long *)&expected), 1);
    assert_true(hashes[0] == __builtin_bswap64(expected));
    assert_true(hashes[1] != 0 && hashes[2] == 0 && hashes[3] == 0);
    assert_string_equal(why.file, inside("data/1.png"));
    assert_int_equal(why.os_error, ENOENT);
    assert_ok(sample_probe(source, ids, 2, hashes, &why, &err), err);
    assert_int_equal(why.code, 0);
}

static void post(void *context)
{
    sem_post(context);
}

static struct fetch_event next_event(struct fetch *fetch, sem_t *woken)
{
    struct fetch_event event;
    while (!fetch_next(fetch, &event))
        sem_wait(woken);
    return event;
}

static void threads_probe_and_say_which_voids_may_be_this_hosts(void **state)
{
    static const uint64_t ids[] = {0, 1, 2};
    static const uint32_t epochs[3];
    struct bl_error err;
    struct fetch *fetch = NULL;
    sem_t woken;
    uint32_t count;
    assert_int_equal(unlink(inside("data/1.png")), 0);
    assert_int_equal(sem_init(&woken, 0, 0), 0);
    assert_ok(fetch_start(&(struct fetch_options){2, post, &woken}, &fetch, &err), err);
    struct files *sent;
    assert_ok(files_new(NULL, &sent, &err), err);
    fetch_open(fetch, sent, inside("run"), run, NULL, "");
    assert_ok(fetch_probe(fetch, ids, 3, &err), err);
    assert_int_equal(next_event(fetch, &woken).kind, FETCH_OPENED);
    struct fetch_event event = next_event(fetch, &woken);
    assert_int_equal(event.kind, FETCH_PROBED);
    assert_int_equal(event.error.os_error, ENOENT);
    const uint64_t *hashes = fetch_probe_hashes(fetch, &count);
    assert_int_equal(count, 3);
    assert_true(hashes[0] && !hashes[1] && hashes[2]);
    assert_ok(fetch_probe(fetch, ids, 1, &err), err);
    assert_int_equal(next_event(fetch, &woken).error.code, 0);
    const struct fetch_order order = {.samples = ids, .epochs = epochs, .count = 3};
    assert_ok(fetch_make(fetch, &order, &err), err);
    event = next_event(fetch, &woken);
    assert_int_equal(event.kind, FETCH_MADE);
    const struct fetch_slot *slots = event.micro_batch->slots;
    assert_false(slots[0].bad);
    assert_true(slots[1].bad && slots[1].unreadable);
    assert_true(slots[2].bad && !slots[2].unreadable);
    fetch_micro_batch_release(event.micro_batch);
    fetch_free(&fetch);
    files_free(&sent);
    sem_destroy(&woken);
}

static void an_image_that_is_too_small_is_left_out_by_its_rule(void **state)
{
    struct bl_error err;
    assert_int_equal(make(0, &err), -BL_EFORMAT);
    assert_true(sample_is_left_out(&err));
    assert_int_equal(location_failure_of(&err), LOCATION_BAD);
    assert_string_equal(err.text, "23 x 17 pixels, less than data.min_side (18)");
    assert_int_equal(make(2, &err), -BL_EFORMAT);
    assert_false(sample_is_left_out(&err));
}

static void an_image_of_the_least_side_is_not_too_small(void **state)
{
    struct bl_error err;
    assert_int_equal(make(0, &err), 0);
    assert_int_equal(make(1, &err), 0);
}

#define IN_RUN(test) cmocka_unit_test_setup_teardown(test, make_run, remove_run)

UNIT_MAIN(cmocka_unit_test_setup_teardown(an_image_that_is_too_small_is_left_out_by_its_rule,
                                          make_run_of_18, remove_run),
          cmocka_unit_test_setup_teardown(an_image_of_the_least_side_is_not_too_small,
                                          make_run_of_17, remove_run),
          IN_RUN(a_passing_fault_is_waited_for),
          IN_RUN(a_fault_that_stays_is_the_loaders_and_voids_no_sample),
          IN_RUN(bytes_that_are_bad_and_files_that_are_missed_here_are_told_apart),
          IN_RUN(bytes_are_hashed_until_they_were_right_once),
          IN_RUN(a_probe_gives_the_hashes_of_what_is_read_here),
          IN_RUN(threads_probe_and_say_which_voids_may_be_this_hosts))
