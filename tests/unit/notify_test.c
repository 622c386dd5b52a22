/* tests/unit/notify_test.c - what the service manager is told, as its socket receives it. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/notify.h"
#include "tests/unit/folder.h"

static int manager;

static void listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, strlen(name));
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    assert_int_equal(bind(manager, (struct sockaddr *)&address, size), 0);
    setenv("NOTIFY_SOCKET", name, 1);
}

static void assert_told(const char *expected)
{
    char text[1024] = "";
    assert_true(recv(manager, text, sizeof text - 1, 0) >= 0);
    assert_string_equal(text, expected);
}

static void assert_told_nothing(void)
{
    char text[1024];
    assert_int_equal(recv(manager, text, sizeof text, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

static int stop_listening(void **state)
{
    close(manager);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    return remove_folder(state);
}

static void the_manager_hears_of_start_work_and_end(void **state)
{
    listen_at(inside("notify"));
    bl_notify_begin();
    assert_null(getenv("NOTIFY_SOCKET")); /* children are not the service */
    bl_notify_ready("step %d\nof 9", 1);
    assert_told("READY=1\nSTATUS=step 1 of 9");
    bl_notify_ready("step %d", 2);
    assert_told("STATUS=step 2");
    bl_notify_alive(); /* no watchdog was asked for */
    assert_told_nothing();
    bl_notify_stopping();
    assert_told("STOPPING=1");
}

static void a_socket_in_the_abstract_namespace_is_one_too(void **state)
{
    char name[64];
    snprintf(name, sizeof name, "@blipren-notify-%d", (int)getpid());
    listen_at(name);
    bl_notify_begin();
    bl_notify_ready("here");
    assert_told("READY=1\nSTATUS=here");
}

static void a_watchdog_is_fed_once_ready_and_not_more_often_than_it_needs(void **state)
{
    listen_at(inside("notify"));
    setenv("WATCHDOG_USEC", "3600000000", 1);
    bl_notify_begin();
    bl_notify_alive();
    assert_told_nothing();
    bl_notify_ready("here");
    assert_told("READY=1\nSTATUS=here");
    bl_notify_alive();
    assert_told("WATCHDOG=1");
    bl_notify_alive();
    assert_told_nothing(); /* a quarter of an hour later, again */
}

static void another_processes_watchdog_is_not_fed(void **state)
{
    listen_at(inside("notify"));
    setenv("WATCHDOG_USEC", "1000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    bl_notify_begin();
    bl_notify_ready("here");
    assert_told("READY=1\nSTATUS=here");
    bl_notify_alive();
    assert_told_nothing();
}

static void without_a_manager_nobody_is_told(void **state)
{
    manager = -1;
    setenv("NOTIFY_SOCKET", inside("nobody"), 1);
    bl_notify_begin();
    bl_notify_ready("here");
    bl_notify_alive();
    bl_notify_stopping();
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make_folder, stop_listening)

UNIT_MAIN(CASE(the_manager_hears_of_start_work_and_end),
          CASE(a_socket_in_the_abstract_namespace_is_one_too),
          CASE(a_watchdog_is_fed_once_ready_and_not_more_often_than_it_needs),
          CASE(another_processes_watchdog_is_not_fed), CASE(without_a_manager_nobody_is_told))
