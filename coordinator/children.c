/* coordinator/children.c - see children.h. */
#include "coordinator/children.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

#define FAILURES_MAX 5
#define KILLS_MAX 20
#define RESTART_WINDOW_MS 30000
#define RESTART_DELAY_MS 200

struct child {
    struct children *all;
    char name[32], log[4096];
    bool worker, running, given_up;
    bool done; /* it left by itself, as it was told */
    int number;
    uv_process_t process;
    uv_timer_t restart;
    uint64_t deaths[KILLS_MAX]; /* times of the latest, a ring */
    int death_count;
};

struct children {
    struct children_options options;
    char folder[4096]; /* of the programs */
    int count, open_handles;
    bool stopping, closing;
    struct child at[];
};

static void start(struct child *child);

/* Where the sibling programs are: beside this one. */
static int program_folder(char *ret, size_t size, struct bl_error *err)
{
    ssize_t n = readlink("/proc/self/exe", ret, size - 1);
    if (n < 0)
        return bl_fail_errno(err, "this program's own path cannot be read");
    ret[n] = 0;
    *strrchr(ret, '/') = 0;
    return 0;
}

/* The last line of a log that is not empty. */
static void last_line(const char *path, char *ret, size_t size)
{
    bl_autofree char *text = NULL;
    size_t length = 0;
    snprintf(ret, size, "see %s", path);
    if (bl_file_read(path, 64 << 20, &text, &length, NULL) < 0)
        return;
    while (length && text[length - 1] == '\n')
        text[--length] = 0;
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (*line)
        snprintf(ret, size, "%s", line);
}

static bool dies_too_often(struct child *child, bool killed, uint64_t now)
{
    int most = killed ? KILLS_MAX : FAILURES_MAX;
    child->deaths[child->death_count++ % KILLS_MAX] = now;
    if (child->death_count < most)
        return false;
    return now - child->deaths[(child->death_count - most) % KILLS_MAX] < RESTART_WINDOW_MS;
}

static void on_restart(uv_timer_t *timer)
{
    struct child *child = timer->data;
    if (!child->all->stopping)
        start(child);
}

static void give_up(struct child *child)
{
    char line[600];
    child->given_up = true;
    last_line(child->log, line, sizeof line);
    child->all->options.given_up(child->all->options.context, child->name, line);
}

static void on_process_closed(uv_handle_t *handle)
{
    struct child *child = handle->data;
    child->all->open_handles--;
    if (!child->all->stopping && !child->given_up && !child->done)
        uv_timer_start(&child->restart, on_restart, RESTART_DELAY_MS, 0);
}

static void on_child_exit(uv_process_t *process, int64_t exit_status, int term_signal)
{
    struct child *child = process->data;
    struct children *all = child->all;
    child->running = false;
    child->done = exit_status == 0 && term_signal == 0;
    uv_close((uv_handle_t *)process, on_process_closed);
    all->options.ended(all->options.context, child->name, process->pid, (int)exit_status,
                       term_signal);
    if (!all->stopping && !child->done &&
        dies_too_often(child, term_signal == SIGKILL, uv_now(all->options.loop)))
        give_up(child);
}

static int spawn(struct child *child, int log)
{
    struct children *all = child->all;
    char program[4200], parent[32], threads[32];
    snprintf(program, sizeof program, "%s/blipren-%s", all->folder,
             child->worker ? "worker" : "loader");
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    snprintf(threads, sizeof threads, "%d", all->options.threads);
    const char *device = all->options.device ? all->options.device : "auto";
    char *arguments[] = {program,    "--coord",  (char *)(uintptr_t)all->options.endpoint,
                         "--parent", parent,     child->worker ? "--threads" : NULL,
                         threads,    "--device", (char *)(uintptr_t)device,
                         NULL};
    char number[32];
    snprintf(number, sizeof number, "%d", child->number);
    setenv("LOCAL_RANK", number, 1); /* by which a worker's "auto" chooses its GPU */
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE},
                                     {.flags = UV_INHERIT_FD, .data.fd = log},
                                     {.flags = UV_INHERIT_FD, .data.fd = log}};
    uv_process_options_t options = {
        .exit_cb = on_child_exit,
        .file = program,
        .args = arguments,
        .stdio = stdio,
        .stdio_count = 3,
        /* a session of its own: the terminal's Ctrl-C is the coordinator's to handle */
        .flags = UV_PROCESS_DETACHED};
    child->process.data = child;
    int rc = uv_spawn(all->options.loop, &child->process, &options);
    all->open_handles++; /* a handle that failed to spawn must be closed too */
    return rc;
}

static void start(struct child *child)
{
    bl_autofd int log = open(child->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    int rc = log < 0 ? -errno : spawn(child, log);
    child->running = rc == 0;
    if (rc == 0)
        return;
    char line[600];
    snprintf(line, sizeof line, "cannot be started: %s", uv_strerror(rc));
    child->given_up = true;
    if (log >= 0)
        uv_close((uv_handle_t *)&child->process, on_process_closed);
    child->all->options.given_up(child->all->options.context, child->name, line);
}

static void init_child(struct children *all, int i)
{
    struct child *child = &all->at[i];
    child->all = all;
    child->worker = i < all->options.workers;
    child->number = child->worker ? i : i - all->options.workers;
    snprintf(child->name, sizeof child->name, "%s-%d", child->worker ? "worker" : "loader",
             child->number);
    snprintf(child->log, sizeof child->log, "%s/logs/%s-%d.log", all->options.run_folder,
             child->worker ? "worker" : "loader", child->number);
    uv_timer_init(all->options.loop, &child->restart);
    child->restart.data = child;
    all->open_handles++;
}

int children_open(const struct children_options *options, struct children **ret,
                  struct bl_error *err)
{
    int count = options->workers + options->loaders;
    bl_autofree struct children *all = calloc(1, sizeof *all + (size_t)count * sizeof all->at[0]);
    if (!all)
        return bl_fail(err, BL_ENOMEM, "no memory for %d children", count);
    char logs[4096];
    all->options = *options;
    all->count = count;
    BL_TRY(program_folder(all->folder, sizeof all->folder, err));
    BL_TRY(bl_path_join(logs, sizeof logs, options->run_folder, "logs", err));
    BL_TRY(bl_folder_make(logs, err));
    setenv("OMP_WAIT_POLICY", "passive",
           0); /* libgomp reads it at load: spinning threads starve the others */
    struct children *kept = bl_take(&all);
    for (int i = 0; i < count; i++)
        init_child(kept, i);
    for (int i = 0; i < count; i++)
        start(&kept->at[i]);
    *ret = kept;
    return 0;
}

int children_running(const struct children *all)
{
    int running = 0;
    for (int i = 0; i < all->count; i++)
        running += all->at[i].running;
    return running;
}

bool children_runs(const struct children *all, int pid)
{
    for (int i = 0; all && i < all->count; i++)
        if (all->at[i].running && all->at[i].process.pid == pid)
            return true;
    return false;
}

void children_let_go(struct children *all)
{
    all->stopping = true;
    for (int i = 0; i < all->count; i++)
        uv_timer_stop(&all->at[i].restart);
}

void children_stop(struct children *all, bool at_once)
{
    children_let_go(all);
    for (int i = 0; i < all->count; i++) {
        if (all->at[i].running)
            uv_process_kill(&all->at[i].process, at_once ? SIGKILL : SIGTERM);
    }
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct child *child = handle->data;
    child->all->open_handles--;
}

void children_close(struct children **children)
{
    struct children *all = *children;
    if (!all)
        return;
    children_stop(all, true);
    for (int i = 0; i < all->count; i++)
        uv_close((uv_handle_t *)&all->at[i].restart, on_timer_closed);
    while (all->open_handles > 0)
        uv_run(all->options.loop, UV_RUN_ONCE);
    free(all);
    *children = NULL;
}
