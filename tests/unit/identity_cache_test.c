/* tests/unit/identity_cache_test.c - model folders that were hashed before are not read again, unless anything about them changed. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/models/hf.h"
#include "common/models/identity_cache.h"
#include "tests/unit/folder.h"

/* What no folder hashes to: whoever gives it out took it from the cache. */
static const char planted[] = "5555555555555555555555555555555555555555555555555555555555555555";

static const int64_t long_after = INT64_MAX;

static int begin(void **state)
{
    make_folder(state);
    setenv("XDG_CACHE_HOME", inside("cache"), 1);
    return bl_folder_make(inside("model"), NULL);
}

static void put(const char *name, const char *text)
{
    struct bl_error err = {0};
    assert_ok(bl_file_write(inside(name), text, strlen(text), &err), err);
}

static void set_mtime(const char *name, int64_t seconds)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, inside(name), times, 0), 0);
}

static const char *model(void)
{
    static char path[4096];
    assert_non_null(realpath(inside("model"), path));
    return path;
}

static struct identity_stamp stamp_now(void)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    struct identity_stamp stamp;
    identity_stamp_begin(&stamp, model(), HF_IDENTITY_ALL);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64];
        struct stat st;
        snprintf(name, sizeof name, "model/%s", names[i]);
        assert_int_equal(stat(inside(name), &st), 0);
        identity_stamp_add(&stamp, names[i], &st);
    }
    identity_stamp_end(&stamp);
    return stamp;
}

/* A model whose planted identity is in the cache. */
static void keep_planted(void)
{
    put("model/config.json", "{}");
    put("model/model.safetensors", "abc");
    struct identity_stamp stamp = stamp_now();
    identity_cache_keep(model(), &stamp, long_after, planted);
}

static const char *identity(void)
{
    static char hex[65];
    struct bl_error err = {0};
    assert_ok(hf_folder_sha256(inside("model"), HF_IDENTITY_ALL, hex, &err), err);
    return hex;
}

static char *kept_file(char ret[4096])
{
    char command[512];
    snprintf(command, sizeof command, "ls -d %s/blipren/identities/*", inside("cache"));
    FILE *list = popen(command, "r");
    assert_non_null(fgets(ret, 4096, list));
    pclose(list);
    ret[strcspn(ret, "\n")] = 0;
    return ret;
}

static void what_did_not_change_is_not_read_again(void **state)
{
    keep_planted();
    assert_string_equal(identity(), planted);
    put("model/README.md", "not part of the model");
    assert_string_equal(identity(), planted);
}

static void changed_bytes_of_the_same_size_are_read(void **state)
{
    keep_planted();
    int fd = open(inside("model/model.safetensors"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, "abd", 3), 3);
    close(fd);
    set_mtime("model/model.safetensors", 1700000000);
    assert_string_not_equal(identity(), planted);
}

/* A time of modification can be set by anyone; that of the change cannot. */
static void a_time_that_was_set_back_does_not_hide_a_change(void **state)
{
    put("model/config.json", "{}");
    put("model/model.safetensors", "abc");
    set_mtime("model/model.safetensors", 1700000000);
    struct identity_stamp before = stamp_now();
    char hex[65];
    identity_cache_keep(model(), &before, long_after, planted);
    assert_string_equal(identity(), planted);
    for (struct identity_stamp after = before; after.changed_ns == before.changed_ns;
         after = stamp_now()) /* the clock of file systems ticks every few milliseconds */
        set_mtime("model/model.safetensors", 1700000000);
    struct identity_stamp after = stamp_now();
    assert_false(identity_cache_find(model(), &after, hex));
    assert_string_not_equal(identity(), planted);
}

static void a_file_that_was_replaced_is_read(void **state)
{
    keep_planted();
    set_mtime("model/config.json", 1700000000);
    struct identity_stamp stamp = stamp_now();
    identity_cache_keep(model(), &stamp, long_after, planted);
    assert_string_equal(identity(), planted);
    put("other", "[]");
    set_mtime("other", 1700000000);
    assert_int_equal(rename(inside("other"), inside("model/config.json")), 0);
    assert_string_not_equal(identity(), planted);
}

static void a_new_file_of_the_model_is_read(void **state)
{
    keep_planted();
    put("model/tokenizer.json", "{}");
    assert_string_not_equal(identity(), planted);
}

static void the_kinds_of_identity_are_kept_apart(void **state)
{
    char hex[65];
    struct bl_error err = {0};
    keep_planted();
    assert_ok(hf_folder_sha256(inside("model"), HF_IDENTITY_WEIGHTS, hex, &err), err);
    assert_string_not_equal(hex, planted);
}

static void what_is_damaged_in_the_cache_is_not_used(void **state)
{
    char path[4096];
    keep_planted();
    kept_file(path);
    bl_autofree char *whole = NULL;
    size_t size;
    struct bl_error err = {0};
    assert_ok(bl_file_read(path, 4096, &whole, &size, &err), err);
    for (size_t i = 0; i < size; i++) {
        whole[i] ^= 1;
        assert_ok(bl_file_write(path, whole, size, &err), err);
        whole[i] ^= 1;
        assert_string_not_equal(identity(), planted);
    }
    assert_ok(bl_file_write(path, whole, size - 1, &err), err);
    assert_string_not_equal(identity(), planted);
    assert_ok(bl_file_write(path, whole, size, &err), err);
    assert_string_equal(identity(), planted);
}

static void a_file_that_has_just_changed_is_not_trusted(void **state)
{
    char hex[65];
    put("model/config.json", "{}");
    put("model/model.safetensors", "abc");
    struct identity_stamp stamp = stamp_now();
    const int64_t settled = stamp.changed_ns + IDENTITY_SETTLED_S * 1000000000ll;
    identity_cache_keep(model(), &stamp, settled - 1, planted);
    assert_false(identity_cache_find(model(), &stamp, hex));
    identity(); /* hashed within that time, so nothing is kept */
    assert_false(identity_cache_find(model(), &stamp, hex));
    identity_cache_keep(model(), &stamp, settled, planted);
    assert_true(identity_cache_find(model(), &stamp, hex));
}

static void a_cache_that_cannot_be_written_is_no_error(void **state)
{
    put("cache", "a file where the folder should be");
    keep_planted();
    assert_string_not_equal(identity(), planted);
    setenv("XDG_CACHE_HOME", "relative", 1);
    unsetenv("HOME");
    assert_string_not_equal(identity(), planted);
}

static void without_xdg_cache_home_it_is_below_home(void **state)
{
    char path[4096];
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", inside("home"), 1);
    keep_planted();
    assert_string_equal(identity(), planted);
    snprintf(path, sizeof path, "%s/.cache/blipren/identities", inside("home"));
    assert_true(bl_path_is_folder(path));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, remove_folder)
UNIT_MAIN(CASE(what_did_not_change_is_not_read_again),
          CASE(changed_bytes_of_the_same_size_are_read),
          CASE(a_time_that_was_set_back_does_not_hide_a_change),
          CASE(a_file_that_was_replaced_is_read), CASE(a_new_file_of_the_model_is_read),
          CASE(the_kinds_of_identity_are_kept_apart),
          CASE(what_is_damaged_in_the_cache_is_not_used),
          CASE(a_file_that_has_just_changed_is_not_trusted),
          CASE(a_cache_that_cannot_be_written_is_no_error),
          CASE(without_xdg_cache_home_it_is_below_home))
