/* tests/unit/control_test.c - RUN/control: commands reach the loop, answers come back, and nobody can keep it busy. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/json.h"
#include "coordinator/control.h"
#include "coordinator/control_address.h"
#include "tests/unit/folder.h"

/* A coordinator: its loop runs on a thread of its own until `end`. */
static struct {
    uv_loop_t loop;
    uv_async_t end;
    pthread_t thread;
    struct control *control;
    char run[4096];
    int asked; /* commands, on the loop's thread */
    atomic_uint number;
} coordinator;

static void answer(void *context, enum control_command command, unsigned number)
{
    coordinator.asked++;
    atomic_store(&coordinator.number, number);
    struct bl_error err;
    bl_fail(&err, BL_EIO, "the disk is full");
    control_answer(coordinator.control, command,
                   command == CONTROL_STATUS ? json_pack("{s:i}", "step", 7) : control_error(&err));
}

static void on_end(uv_async_t *end)
{
    control_close(&coordinator.control);
    uv_close((uv_handle_t *)end, NULL);
}

static void *run_loop(void *unused)
{
    uv_run(&coordinator.loop, UV_RUN_DEFAULT);
    return NULL;
}

static void start_in(const char *run)
{
    struct bl_error err = {0};
    snprintf(coordinator.run, sizeof coordinator.run, "%s", run);
    assert_int_equal(uv_loop_init(&coordinator.loop), 0);
    assert_int_equal(uv_async_init(&coordinator.loop, &coordinator.end, on_end), 0);
    assert_ok(control_open(&coordinator.loop, run, answer, NULL, &coordinator.control, &err), err);
    assert_int_equal(pthread_create(&coordinator.thread, NULL, run_loop, NULL), 0);
}

static void stop_it(void)
{
    uv_async_send(&coordinator.end);
    pthread_join(coordinator.thread, NULL);
    assert_int_equal(uv_loop_close(&coordinator.loop), 0);
}

static int start(void **state)
{
    if (make_folder(state) < 0)
        return -1;
    start_in(folder);
    return 0;
}

static int end(void **state)
{
    stop_it();
    return remove_folder(state);
}

/* A client of the wrong kind. The descriptor is the caller's. */
static int connect_raw(void)
{
    struct sockaddr_un address;
    int run = open(coordinator.run, O_PATH), fd = socket(AF_UNIX, SOCK_STREAM, 0);
    control_address(run, &address);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(run);
    return fd;
}

static int64_t step_of_status(void)
{
    struct bl_error err = {0};
    json_t *status = NULL;
    int64_t step = -1;
    assert_ok(control_ask(coordinator.run, CONTROL_STATUS, 0, 5000, &status, &err), err);
    assert_ok(bl_json_int(status, "step", 0, 100, &step, &err), err);
    bl_json_free(&status);
    return step;
}

static void a_command_gets_its_answer(void **state)
{
    assert_int_equal(step_of_status(), 7);
}

static void an_answer_that_is_an_error_becomes_the_clients(void **state)
{
    struct bl_error err = {0};
    json_t *status = NULL;
    assert_int_equal(control_ask(folder, CONTROL_CHECKPOINT, 0, 5000, &status, &err), -BL_EIO);
    assert_string_equal(err.text, "the disk is full");
}

static void only_its_owner_may_use_it(void **state)
{
    struct stat is;
    assert_int_equal(stat(inside("control"), &is), 0);
    assert_true(S_ISSOCK(is.st_mode));
    assert_int_equal(is.st_mode & 0777, 0600);
}

static void an_unknown_command_is_told_so(void **state)
{
    char text[256] = "";
    int fd = connect_raw();
    assert_int_equal(write(fd, "dance\n", 6), 6);
    assert_true(read(fd, text, sizeof text - 1) > 0);
    assert_non_null(strstr(text, "knows no command \\\"dance\\\""));
    assert_non_null(strstr(text, "\"code\":\"USAGE\""));
    close(fd);
}

static void a_line_without_an_end_is_cut_off(void **state)
{
    char text[256];
    int fd = connect_raw();
    memset(text, 'x', sizeof text);
    assert_true(send(fd, text, sizeof text, MSG_NOSIGNAL) > 0);
    assert_true(read(fd, text, sizeof text) <= 0);
    close(fd);
    assert_int_equal(step_of_status(), 7);
}

static void who_connects_and_says_nothing_keeps_nobody_else_out_for_ever(void **state)
{
    int fds[40];
    char text[8];
    for (int i = 0; i < 40; i++)
        fds[i] = connect_raw();
    assert_true(read(fds[39], text, sizeof text) <= 0); /* turned away */
    for (int i = 0; i < 40; i++)
        close(fds[i]);
    json_t *status = NULL;
    while (control_ask(folder, CONTROL_STATUS, 0, 5000, &status, NULL) < 0)
        continue; /* until their leaving is seen */
    bl_json_free(&status);
}

static void without_a_coordinator_the_client_says_where_it_looked(void **state)
{
    char host[256], text[600];
    struct bl_error err = {0};
    json_t *status = NULL;
    gethostname(host, sizeof host);
    assert_int_equal(control_ask(folder, CONTROL_STATUS, 0, 5000, &status, &err), -BL_EPEER);
    snprintf(text, sizeof text, "no coordinator answers in this run folder on %s", host);
    assert_string_equal(err.text, text);
    assert_string_equal(err.file, folder);

    struct bl_error written = {0};
    assert_ok(bl_file_write(inside("lock"), "elsewhere 31\n", 13, &written), written);
    assert_int_equal(control_ask(folder, CONTROL_STATUS, 0, 5000, &status, &err), -BL_EPEER);
    snprintf(text, sizeof text,
             "no coordinator answers in this run folder on %s; it was last one of elsewhere", host);
    assert_string_equal(err.text, text);
    assert_string_equal(err.remedy, "run this command on that host");

    assert_int_equal(control_ask(inside("none"), CONTROL_STATUS, 0, 5000, &status, &err), -BL_EIO);
}

static void what_a_killed_coordinator_left_is_no_hindrance(void **state)
{
    struct bl_error err = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/control", folder);
    int left = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(left, (struct sockaddr *)&address, sizeof address), 0);
    close(left);
    json_t *status = NULL;
    assert_int_equal(control_ask(folder, CONTROL_STATUS, 0, 5000, &status, &err), -BL_EPEER);
    start_in(folder);
    assert_int_equal(step_of_status(), 7);
    stop_it();
    assert_int_equal(access(inside("control"), F_OK), -1);
}

static void a_run_folder_may_have_a_longer_path_than_sockets_have(void **state)
{
    char run[600];
    struct bl_error err = {0};
    snprintf(run, sizeof run, "%s/%0200d/%0200d", folder, 1, 2);
    assert_ok(bl_folder_make(run, &err), err);
    start_in(run);
    assert_int_equal(step_of_status(), 7);
    stop_it();
}

static void a_command_takes_its_number_along(void **state)
{
    struct bl_error err = {0};
    json_t *status = NULL;
    assert_int_equal(control_ask(coordinator.run, CONTROL_SCALE, 12, 5000, &status, &err), -BL_EIO);
    assert_int_equal(atomic_load(&coordinator.number), 12);
}

#define WITH(name) cmocka_unit_test_setup_teardown(name, start, end)
#define ALONE(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

UNIT_MAIN(WITH(a_command_gets_its_answer), WITH(a_command_takes_its_number_along),
          WITH(an_answer_that_is_an_error_becomes_the_clients), WITH(only_its_owner_may_use_it),
          WITH(an_unknown_command_is_told_so), WITH(a_line_without_an_end_is_cut_off),
          WITH(who_connects_and_says_nothing_keeps_nobody_else_out_for_ever),
          ALONE(without_a_coordinator_the_client_says_where_it_looked),
          ALONE(what_a_killed_coordinator_left_is_no_hindrance),
          ALONE(a_run_folder_may_have_a_longer_path_than_sockets_have))
