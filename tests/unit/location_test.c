/* tests/unit/location_test.c - where an image's bytes are: its text, its bytes, and what a failure to read them says. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/data/location.h"
#include "tests/unit/folder.h"

static void put(const char *name, const char *text)
{
    struct bl_error err = {0};
    assert_ok(bl_file_write(inside(name), text, strlen(text), &err), err);
}

static struct location parsed(const char *text)
{
    struct bl_error err = {0};
    struct location location;
    assert_ok(location_parse(text, &location, &err), err);
    return location;
}

static void a_location_is_the_text_that_names_it(void **state)
{
    static const char *const texts[] = {
        "/a/b c.jpg",
        "/range:1+2:/a",
        "range:0+1:/a/shard 1.tar",
        "range:9223372036854775806+1:/a",
        "url:https://host/a.jpg?b=c /cache/ab cd",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct bl_error err = {0};
        struct location location = parsed(texts[i]);
        char *again = NULL;
        assert_ok(location_format(&location, &again, &err), err);
        assert_string_equal(again, texts[i]);
        free(again);
    }
    struct location range = parsed("range:512+77:/a/shard.tar");
    assert_int_equal(range.kind, LOCATION_RANGE);
    assert_int_equal(range.offset, 512);
    assert_int_equal(range.length, 77);
    assert_string_equal(range.path, "/a/shard.tar");
    char text[64];
    location_describe(&range, text, sizeof text);
    assert_string_equal(text, "/a/shard.tar[512+77]");
    struct location url = parsed("url:https://host/a.jpg /cache/ab");
    location_describe(&url, text, sizeof text);
    assert_string_equal(text, "https://host/a.jpg");
    assert_string_equal(url.path, "/cache/ab");
}

static void a_text_that_names_none_is_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "a.jpg",
        "range:/a",
        "range:1+2/a",
        "range:-1+2:/a",
        "range:1+:/a",
        "range:1+2:a.tar",
        "range:18446744073709551616+1:/a",
        "range:9223372036854775807+1:/a",
        "url:https://host/a",
        "url: /a",
        "url:https://host/a b",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct bl_error err = {0};
        struct location location;
        assert_int_equal(location_parse(texts[i], &location, &err), -BL_EFORMAT);
        assert_non_null(strstr(err.text, texts[i]));
    }
}

static void expect_bytes(const char *text, const char *expected)
{
    struct bl_error err = {0};
    struct bl_stamp before, after;
    struct location location = parsed(text);
    char *data = NULL;
    size_t size = 0;
    assert_ok(location_stamp(&location, &before, &err), err);
    assert_ok(location_read(&location, 100, &data, &size, &after, &err), err);
    assert_int_equal(size, strlen(expected));
    assert_string_equal(data, expected);
    assert_true(bl_stamp_equal(&before, &after));
    assert_int_equal(before.size, size);
    free(data);
}

static void bytes_are_read_wherever_they_are(void **state)
{
    char text[256];
    put("file", "an image");
    put("shard", "0123456789");
    expect_bytes(inside("file"), "an image");
    snprintf(text, sizeof text, "range:3+4:%s", inside("shard"));
    expect_bytes(text, "3456");
    snprintf(text, sizeof text, "url:https://host/x %s", inside("file"));
    expect_bytes(text, "an image");
}

static void refuses(const char *text, size_t max_bytes, enum location_failure failure,
                    const char *expected)
{
    struct bl_error err = {0};
    struct location location = parsed(text);
    char *data = NULL, line[1600];
    size_t size;
    assert_true(location_read(&location, max_bytes, &data, &size, NULL, &err) < 0);
    assert_null(data);
    bl_error_format(&err, line, sizeof line);
    assert_non_null(strstr(line, expected));
    assert_int_equal(location_failure_of(&err), failure);
}

static void what_cannot_be_read_is_told_apart(void **state)
{
    char text[256];
    put("shard", "0123456789");
    assert_int_equal(mkdir(inside("folder"), 0777), 0);
    assert_int_equal(mkfifo(inside("fifo"), 0777), 0);
    refuses(inside("absent"), 100, LOCATION_UNREADABLE, "absent: cannot be opened: No such file");
    refuses(inside("shard/a"), 100, LOCATION_UNREADABLE,
            "shard/a: cannot be opened: Not a directory");
    refuses(inside("folder"), 100, LOCATION_UNREADABLE, "expected a regular file, found a folder");
    refuses(inside("fifo"), 100, LOCATION_UNREADABLE,
            "expected a regular file, found something else");
    refuses(inside("shard"), 9, LOCATION_BAD, "shard: expected at most 9 bytes, found 10");
    snprintf(text, sizeof text, "range:8+4:%s", inside("shard"));
    refuses(text, 100, LOCATION_UNREADABLE,
            "shard: expected 4 bytes at offset 8, found the file's end at 10");
    snprintf(text, sizeof text, "range:90+4:%s", inside("shard"));
    refuses(text, 100, LOCATION_UNREADABLE,
            "shard: expected 4 bytes at offset 90, found the file's end at 10");
}

static void a_host_s_passing_fault_is_no_fact_about_the_bytes(void **state)
{
    static const int passing[] = {EIO, EMFILE, ENFILE, ESTALE, EINTR, ENOMEM, EAGAIN, ETIMEDOUT};
    static const int absent[] = {ENOENT, ENOTDIR, EACCES, EPERM, ELOOP, ENAMETOOLONG, EISDIR};
    struct bl_error err = {0};
    for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
        errno = passing[i];
        bl_fail_errno(&err, "cannot be read");
        assert_int_equal(location_failure_of(&err), LOCATION_PASSING);
    }
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        errno = absent[i];
        bl_fail_errno(&err, "cannot be read");
        assert_int_equal(location_failure_of(&err), LOCATION_UNREADABLE);
    }
    bl_fail(&err, BL_EDATA, "other bytes than were indexed");
    assert_int_equal(location_failure_of(&err), LOCATION_UNREADABLE);
    bl_fail(&err, BL_ENOMEM, "no memory");
    assert_int_equal(location_failure_of(&err), LOCATION_PASSING);
    bl_fail(&err, BL_EFORMAT, "no JPEG");
    assert_int_equal(location_failure_of(&err), LOCATION_BAD);
}

static void patience_ends_after_half_a_minute(void **state)
{
    uint32_t sum = 0, last = 0;
    for (unsigned failures = 1; location_backoff_ms(failures); failures++) {
        assert_true(location_backoff_ms(failures) >= last);
        sum += last = location_backoff_ms(failures);
    }
    assert_in_range(sum, 30000, 35000);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(cmocka_unit_test(a_location_is_the_text_that_names_it),
          cmocka_unit_test(a_text_that_names_none_is_refused),
          IN_FOLDER(bytes_are_read_wherever_they_are), IN_FOLDER(what_cannot_be_read_is_told_apart),
          cmocka_unit_test(a_host_s_passing_fault_is_no_fact_about_the_bytes),
          cmocka_unit_test(patience_ends_after_half_a_minute))
