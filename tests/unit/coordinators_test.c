/* tests/unit/coordinators_test.c - where --coord says that the coordinator may be. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/file.h"
#include "proto/coordinators.h"

static struct coordinators c;
static char address[SOCKET_ENDPOINT_MAX];
static struct bl_error err;

static const char *next(void)
{
    assert_ok(coordinators_next(&c, address, &err), err);
    return address;
}

static void addresses_are_tried_in_turn(void **state)
{
    assert_ok(coordinators_open(&c, "tcp://127.0.0.1:1,tcp://127.0.0.2:2", false, address, &err),
              err);
    assert_string_equal(address, "tcp://127.0.0.1:1");
    assert_string_equal(next(), "tcp://127.0.0.1:1");
    assert_string_equal(next(), "tcp://127.0.0.2:2");
    assert_string_equal(next(), "tcp://127.0.0.1:1");
}

static void a_file_is_read_anew_for_each_attempt(void **state)
{
    char path[] = "/tmp/blipren-coordinators-XXXXXX";
    close(mkstemp(path));
    assert_ok(coordinators_open(&c, path, false, address, &err), err);
    assert_string_equal(address, "");
    assert_int_equal(coordinators_next(&c, address, &err), -BL_EUSAGE);
    assert_ok(bl_file_write(path, "tcp://127.0.0.1:1\n", 18, &err), err);
    assert_string_equal(next(), "tcp://127.0.0.1:1");
    assert_ok(bl_file_write(path, "tcp://127.0.0.1:3\n", 18, &err), err);
    assert_string_equal(next(), "tcp://127.0.0.1:3");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(coordinators_next(&c, address, &err), -BL_EIO);
    assert_string_equal(address, "tcp://127.0.0.1:3");
}

static void every_address_is_checked(void **state)
{
    assert_int_equal(coordinators_open(&c, "tcp://127.0.0.1:1,127.0.0.1", false, address, &err),
                     -BL_EUSAGE);
    assert_string_equal(err.text,
                        "expected an address like tcp://127.0.0.1:5555, found \"127.0.0.1\"");
    assert_int_equal(
        coordinators_open(&c, "tcp://127.0.0.1:1,tcp://192.0.2.1:1", false, address, &err),
        -BL_EUSAGE);
    assert_string_equal(err.text,
                        "tcp://192.0.2.1:1 is not on this machine alone, and there are no keys");
    assert_ok(coordinators_open(&c, "tcp://127.0.0.1:1,tcp://192.0.2.1:1", true, address, &err),
              err);
}

UNIT_MAIN(cmocka_unit_test(addresses_are_tried_in_turn),
          cmocka_unit_test(a_file_is_read_anew_for_each_attempt),
          cmocka_unit_test(every_address_is_checked))
