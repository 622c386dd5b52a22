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
#include "common/limits.h"
#include "common/program.h"
#include "common/size.h"
#include "proto/member.h"
#include "proto/wire.h"

#define FAILURES_MAX 5
#define OUT_OF_MEMORY_MAX 3
#define RESTART_WINDOW_MS 30000
#define RESTART_DELAY_MS 200

struct child {
    struct children *all;
    char name[32], log[4096];
    bool worker, running, given_up;
    bool used;      /* initialized: a worker's place may be left for later */
    bool done;      /* it left by itself, as it was told */
    bool dismissed; /* it was told to leave, or will be: not started again */
    int number;
    uv_process_t process;
    uv_timer_t restart;
    uint64_t secret;               /* by which its Hello is known */
    int64_t peak;                  /* bytes of memory it had at most, as far as was seen */
    uint64_t deaths[FAILURES_MAX]; /* times of the latest of its own making, a ring */
    int death_count;
    int out_of_memory_count; /* deaths by the kernel's hand */
};

struct children {
    struct children_options options;
    char folder[4096]; /* of the programs */
    int count, open_handles;
    bool stopping, closing;
    int64_t kernel_kills; /* as the system counted them last; -1: it does not */
    struct child at[];
};

static void start(struct child *child);

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

/* How many processes the kernel killed for lack of memory since it was started: /proc/vmstat, oom_kill. -1: it does not say. */
static int64_t count_kernel_kills(void)
{
    char line[128];
    long long kills = -1;
    bl_autofclose FILE *f = fopen("/proc/vmstat", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "oom_kill %lld", &kills) == 1)
            break;
    return kills;
}

/* A program that fails gets another signal, or none. */
static bool is_from_outside(int signal)
{
    return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGHUP ||
           signal == SIGQUIT;
}

/* Its peak resident set: /proc/PID/status, VmHWM. */
static void see_peak(struct child *child)
{
    char path[64], line[128];
    long long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", child->process.pid);
    bl_autofclose FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld kB", &kib) == 1)
            child->peak = bl_max(child->peak, kib * 1024);
}

void children_watch(struct children *all)
{
    for (int i = 0; i < all->count; i++)
        if (all->at[i].running)
            see_peak(&all->at[i]);
}

static bool fails_too_often(struct child *child, uint64_t now)
{
    child->deaths[child->death_count++ % FAILURES_MAX] = now;
    if (child->death_count < FAILURES_MAX)
        return false;
    return now - child->deaths[child->death_count % FAILURES_MAX] < RESTART_WINDOW_MS;
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
    if (child->out_of_memory_count >= OUT_OF_MEMORY_MAX)
        snprintf(line, sizeof line, "killed by the kernel for lack of memory");
    child->all->options.given_up(child->all->options.context, child->name, line);
}

static void on_process_closed(uv_handle_t *handle)
{
    struct child *child = handle->data;
    child->all->open_handles--;
    if (!child->all->stopping && !child->given_up && !child->done && !child->dismissed)
        uv_timer_start(&child->restart, on_restart, RESTART_DELAY_MS, 0);
}

static void on_child_exit(uv_process_t *process, int64_t exit_status, int term_signal)
{
    struct child *child = process->data;
    struct children *all = child->all;
    child->running = false;
    child->done = exit_status == 0 && term_signal == 0;
    uv_close((uv_handle_t *)process, on_process_closed);
    struct child_end end = {.name = child->name,
                            .secret = child->secret,
                            .pid = process->pid,
                            .exit_code = (int)exit_status,
                            .signal = term_signal,
                            .peak = child->peak};
    int64_t kills = count_kernel_kills();
    end.out_of_memory = term_signal == SIGKILL && kills > all->kernel_kills;
    end.killed = is_from_outside(term_signal) && (term_signal != SIGKILL || kills >= 0) &&
                 !end.out_of_memory;
    all->kernel_kills = kills;
    child->out_of_memory_count += end.out_of_memory;
    all->options.ended(all->options.context, &end);
    if (all->stopping || child->done || child->dismissed)
        return;
    /* Somebody's kill is no failure of its own. */
    bool its_own =
        !is_from_outside(term_signal) && fails_too_often(child, uv_now(all->options.loop));
    if (its_own || child->out_of_memory_count >= OUT_OF_MEMORY_MAX)
        give_up(child);
}

/* This process's environment and one variable more; the list alone is the caller's (free). */
static char **with_variable(char *variable)
{
    size_t count = 0;
    while (environ[count])
        count++;
    char **list = calloc(count + 2, sizeof *list);
    if (!list)
        return NULL;
    memcpy(list, environ, count * sizeof *list);
    list[count] = variable;
    return list;
}

static int spawn(struct child *child, int log)
{
    struct children *all = child->all;
    const struct children_options *o = &all->options;
    char program[4200], parent[32], threads[32], capacity[32], secret[64];
    snprintf(program, sizeof program, "%s/blipren-%s", all->folder,
             child->worker ? "worker" : "loader");
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    snprintf(threads, sizeof threads, "%d", child->worker ? o->threads : o->loader_threads);
    snprintf(capacity, sizeof capacity, "%d", o->loader_capacity);
    child->secret = wire_incarnation();
    child->peak = 0;
    snprintf(secret, sizeof secret, CHILD_SECRET "=%016llx", (unsigned long long)child->secret);
    const char *device = o->device ? o->device : "auto";
    char *arguments[] = {program,
                         "--coord",
                         (char *)(uintptr_t)o->endpoint,
                         "--parent",
                         parent,
                         "--threads",
                         threads,
                         child->worker ? "--device" : "--capacity",
                         child->worker ? (char *)(uintptr_t)device : capacity,
                         o->keys ? "--keys" : NULL,
                         (char *)(uintptr_t)o->keys,
                         NULL};
    char number[32];
    snprintf(number, sizeof number, "%d", child->number);
    setenv("LOCAL_RANK", number, 1); /* by which a worker's "auto" chooses its GPU */
    bl_autofree char **environment = with_variable(secret);
    if (!environment)
        return UV_ENOMEM;
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE},
                                     {.flags = UV_INHERIT_FD, .data.fd = log},
                                     {.flags = UV_INHERIT_FD, .data.fd = log}};
    uv_process_options_t options = {
        .exit_cb = on_child_exit,
        .file = program,
        .args = arguments,
        .env = environment,
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

/* The first BL_LOCAL_WORKERS_MAX places are the workers', used or not. */
static void init_child(struct children *all, int i)
{
    struct child *child = &all->at[i];
    child->all = all;
    child->used = true;
    child->worker = i < BL_LOCAL_WORKERS_MAX;
    child->number = child->worker ? i : i - BL_LOCAL_WORKERS_MAX;
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
    int count = BL_LOCAL_WORKERS_MAX + options->loaders;
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
    kept->kernel_kills = count_kernel_kills();
    for (int i = 0; i < count; i++)
        if (i < options->workers || i >= BL_LOCAL_WORKERS_MAX)
            init_child(kept, i);
    for (int i = 0; i < count; i++)
        if (kept->at[i].used)
            start(&kept->at[i]);
    *ret = kept;
    return 0;
}

/* A process that is on its way out comes back by itself when it has ended. */
static void bring_back(struct children *all, int i)
{
    struct child *child = &all->at[i];
    bool fresh = !child->used;
    if (fresh)
        init_child(all, i);
    bool was_away = fresh || child->dismissed;
    child->dismissed = child->done = false;
    if (was_away && !child->running && !uv_is_active((uv_handle_t *)&child->restart))
        uv_timer_start(&child->restart, on_restart, fresh ? 0 : RESTART_DELAY_MS, 0);
}

void children_scale(struct children *all, int workers,
                    bool (*dismiss)(void *context, uint64_t secret), void *context)
{
    all->options.workers = workers;
    for (int i = 0; i < BL_LOCAL_WORKERS_MAX; i++) {
        struct child *child = &all->at[i];
        if (i < workers) {
            bring_back(all, i);
        } else if (child->used && !child->dismissed) {
            child->dismissed = true;
            uv_timer_stop(&child->restart);
            if (child->running && !dismiss(context, child->secret))
                uv_process_kill(&child->process, SIGTERM);
        }
    }
}

int children_workers(const struct children *all)
{
    return all->options.workers;
}

int children_running(const struct children *all)
{
    int running = 0;
    for (int i = 0; i < all->count; i++)
        running += all->at[i].running;
    return running;
}

bool children_runs(const struct children *all, uint64_t secret)
{
    for (int i = 0; all && secret && i < all->count; i++)
        if (all->at[i].running && all->at[i].secret == secret)
            return true;
    return false;
}

void children_let_go(struct children *all)
{
    all->stopping = true;
    for (int i = 0; i < all->count; i++)
        if (all->at[i].used)
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
        if (all->at[i].used)
            uv_close((uv_handle_t *)&all->at[i].restart, on_timer_closed);
    while (all->open_handles > 0)
        uv_run(all->options.loop, UV_RUN_ONCE);
    free(all);
    *children = NULL;
}
