/* tests/unit/children_test.c - children of --local: who is started again, who is given up, and what they are told. The programs
 * are shell scripts beside a copy of this test, since children are looked for in their parent's own folder. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "coordinator/children.h"
#include "proto/member.h"

#define ENDS_MAX 16

static char folder[4096];

struct watch {
    uv_loop_t loop;
    struct children *children;
    int end_count;
    struct child_end ends[ENDS_MAX];
    char given_up[32], last_line[600];
    void (*on_end)(struct watch *watch);
};

static void note_end(void *context, const struct child_end *end)
{
    struct watch *w = context;
    assert_true(w->end_count < ENDS_MAX);
    w->ends[w->end_count++] = *end;
    if (w->on_end)
        w->on_end(w);
}

static void note_given_up(void *context, const char *name, const char *last_line)
{
    struct watch *w = context;
    assert_string_equal(w->given_up, "");
    snprintf(w->given_up, sizeof w->given_up, "%s", name);
    snprintf(w->last_line, sizeof w->last_line, "%s", last_line);
}

static void write_script(const char *program, const char *text)
{
    char path[4200], script[2000];
    struct bl_error err;
    snprintf(path, sizeof path, "%s/%s", folder, program);
    snprintf(script, sizeof script, "#!/bin/sh\n%s\n", text);
    assert_ok(bl_file_write(path, script, strlen(script), &err), err);
    assert_int_equal(chmod(path, 0755), 0);
}

static void open_children(struct watch *w, int workers, int loaders, const char *keys)
{
    struct bl_error err;
    char logs[4200];
    *w = (struct watch){0};
    snprintf(logs, sizeof logs, "%s/logs", folder);
    if (bl_path_is_folder(logs))
        assert_ok(bl_folder_remove(logs, &err), err);
    uv_loop_init(&w->loop);
    const struct children_options options = {.loop = &w->loop,
                                             .run_folder = folder,
                                             .endpoint = "tcp://127.0.0.1:1",
                                             .keys = keys,
                                             .workers = workers,
                                             .loaders = loaders,
                                             .threads = 3,
                                             .loader_threads = 5,
                                             .loader_capacity = 7,
                                             .given_up = note_given_up,
                                             .ended = note_end,
                                             .context = w};
    assert_ok(children_open(&options, &w->children, &err), err);
}

static void run_until_ends(struct watch *w, int count)
{
    while (w->end_count < count)
        uv_run(&w->loop, UV_RUN_ONCE);
}

static void close_children(struct watch *w)
{
    children_close(&w->children);
    assert_null(w->children);
    assert_int_equal(uv_loop_close(&w->loop), 0); /* no handle is left */
}

static void read_log(const char *name, char *ret, size_t size)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/logs/%s.log", folder, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    ret[fread(ret, 1, size - 1, f)] = 0;
    fclose(f);
}

static void a_child_that_keeps_failing_is_given_up_with_its_logs_last_line(void **state)
{
    struct watch w;
    write_script("blipren-worker", "echo one; echo 'no such model'; echo; exit 3");
    open_children(&w, 1, 0, NULL);
    run_until_ends(&w, 5);
    assert_string_equal(w.given_up, "worker-0");
    assert_string_equal(w.last_line, "no such model");
    for (int i = 0; i < 5; i++) {
        assert_string_equal(w.ends[i].name, "worker-0");
        assert_int_equal(w.ends[i].exit_code, 3);
        assert_int_equal(w.ends[i].signal, 0);
        for (int k = 0; k < i; k++) /* each start is a new process with a new secret */
            assert_true(w.ends[i].pid != w.ends[k].pid && w.ends[i].secret != w.ends[k].secret);
    }
    uv_run(&w.loop, UV_RUN_DEFAULT); /* until nothing is left to happen: it is not started again */
    assert_int_equal(w.end_count, 5);
    close_children(&w);
}

static void a_child_that_left_as_it_was_told_is_not_started_again(void **state)
{
    struct watch w;
    write_script("blipren-loader", "exit 0");
    open_children(&w, 0, 1, NULL);
    uv_run(&w.loop, UV_RUN_DEFAULT); /* ends as nothing is left to happen */
    assert_int_equal(w.end_count, 1);
    assert_int_equal(w.ends[0].exit_code, 0);
    assert_string_equal(w.given_up, "");
    close_children(&w);
}

static void kill_it_or_stop(struct watch *w)
{
    if (w->end_count == 7)
        children_let_go(w->children);
}

/* Somebody's kill -9 is no failure of its own. */
static void a_killed_child_is_started_again_however_often(void **state)
{
    struct watch w;
    write_script("blipren-worker", "kill -9 $$");
    open_children(&w, 1, 0, NULL);
    w.on_end = kill_it_or_stop;
    run_until_ends(&w, 7);
    for (int i = 0; i < 7; i++)
        assert_int_equal(w.ends[i].signal, SIGKILL);
    assert_string_equal(w.given_up, "");
    close_children(&w);
}

static void children_are_told_whose_they_are_and_with_what_they_work(void **state)
{
    struct watch w;
    char expected[4700], log[4700];
    const char *script = "echo \"$* rank=$LOCAL_RANK secret=$" CHILD_SECRET "\"; exit 0";
    write_script("blipren-worker", script);
    write_script("blipren-loader", script);
    open_children(&w, 2, 1, "/the/keys");
    run_until_ends(&w, 3);
    for (int i = 0; i < 3; i++) {
        bool worker = !strncmp(w.ends[i].name, "worker", 6);
        snprintf(expected, sizeof expected,
                 "--coord tcp://127.0.0.1:1 --parent %d --threads %s --keys /the/keys rank=%s "
                 "secret=%016llx\n",
                 (int)getpid(), worker ? "3 --device auto" : "5 --capacity 7",
                 strchr(w.ends[i].name, '-') + 1, (unsigned long long)w.ends[i].secret);
        read_log(w.ends[i].name, log, sizeof log);
        assert_string_equal(log, expected);
    }
    close_children(&w);
}

/* Waits until the script says in its log that it is there. */
static void wait_for_log(struct watch *w, const char *name)
{
    char path[4200];
    struct stat about;
    snprintf(path, sizeof path, "%s/logs/%s.log", folder, name);
    while (stat(path, &about) != 0 || about.st_size == 0) {
        uv_run(&w->loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
}

static void a_secret_counts_while_its_child_lives(void **state)
{
    struct watch w;
    char log[100];
    write_script("blipren-worker", "echo secret=$" CHILD_SECRET "; exec sleep 1000");
    open_children(&w, 1, 0, NULL);
    wait_for_log(&w, "worker-0");
    read_log("worker-0", log, sizeof log);
    uint64_t secret = strtoull(strchr(log, '=') + 1, NULL, 16);
    assert_true(children_runs(w.children, secret));
    assert_false(children_runs(w.children, secret + 1));
    assert_false(children_runs(w.children, 0));
    assert_false(children_runs(NULL, secret));
    children_watch(w.children);
    children_stop(w.children, false);
    run_until_ends(&w, 1);
    assert_int_equal(w.ends[0].signal, SIGTERM);
    assert_true(w.ends[0].secret == secret && w.ends[0].peak > 0);
    assert_false(children_runs(w.children, secret));
    close_children(&w);
}

static void closing_kills_what_does_not_stop(void **state)
{
    struct watch w;
    write_script("blipren-worker", "trap '' TERM; echo here; while :; do sleep 0.01; done");
    open_children(&w, 2, 0, NULL);
    wait_for_log(&w, "worker-0");
    wait_for_log(&w, "worker-1");
    children_stop(w.children, false);
    assert_int_equal(children_running(w.children), 2);
    close_children(&w);
    assert_int_equal(w.end_count, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(w.ends[i].signal, SIGKILL);
        assert_int_equal(kill(w.ends[i].pid, 0), -1);
    }
    assert_string_equal(w.given_up, "");
}

static void a_program_that_is_missing_is_given_up_at_once(void **state)
{
    struct watch w;
    char path[4200];
    snprintf(path, sizeof path, "%s/blipren-worker", folder);
    unlink(path);
    open_children(&w, 1, 0, NULL);
    assert_string_equal(w.given_up, "worker-0");
    assert_string_equal(w.last_line, "cannot be started: no such file or directory");
    close_children(&w);
}

static int test_in_folder(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_that_keeps_failing_is_given_up_with_its_logs_last_line),
        cmocka_unit_test(a_child_that_left_as_it_was_told_is_not_started_again),
        cmocka_unit_test(a_killed_child_is_started_again_however_often),
        cmocka_unit_test(children_are_told_whose_they_are_and_with_what_they_work),
        cmocka_unit_test(a_secret_counts_while_its_child_lives),
        cmocka_unit_test(closing_kills_what_does_not_stop),
        cmocka_unit_test(a_program_that_is_missing_is_given_up_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Without arguments: copies itself into a folder of its own and runs there. */
int main(int argc, char **argv)
{
    struct bl_error err;
    char copy[4200], command[9000];
    if (argc > 1) {
        snprintf(folder, sizeof folder, "%s", argv[1]);
        return test_in_folder();
    }
    strcpy(folder, "/tmp/blipren-children-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    snprintf(copy, sizeof copy, "%s/children_test", folder);
    snprintf(command, sizeof command, "cp '%s' '%s' && '%s' '%s'", argv[0], copy, copy, folder);
    int failed = system(command);
    return bl_folder_remove(folder, &err) < 0 || failed;
}
