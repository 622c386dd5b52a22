/* coordinator/estimate.c - see estimate.h. */
#include "coordinator/estimate.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "common/size.h"

extern char **environ;

enum { PAGE_BYTES_MAX = 1 << 16 };

/* -- the worker program ------------------------------------------------------------------------ */

/* Starts it with its standard output in a pipe; its errors stay where ours go. */
static int start(const char *const argv[], pid_t *ret_pid, int *ret_fd, struct bl_error *err)
{
    int fds[2];
    posix_spawn_file_actions_t actions;
    if (pipe(fds) < 0)
        return bl_fail_errno(err, "no pipe for the worker program");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    int failure = posix_spawn(ret_pid, argv[0], &actions, NULL, (char **)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    if (failure) {
        close(fds[0]);
        bl_fail(err, BL_EIO, "cannot be started: %s", strerror(failure));
        return bl_error_file(err, argv[0]);
    }
    *ret_fd = fds[0];
    return 0;
}

/* All that comes, at most `size`; returns its length. */
static size_t read_all(int fd, char *ret, size_t size)
{
    size_t used = 0;
    while (used < size) {
        ssize_t n = read(fd, ret + used, size - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    return used;
}

static int run(const char *const argv[], char *page, size_t size, size_t *ret_used,
               struct bl_error *err)
{
    pid_t pid = 0;
    int fd = -1, status = 0;
    BL_TRY(start(argv, &pid, &fd, err));
    *ret_used = read_all(fd, page, size);
    close(fd);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    bl_fail(err, BL_EIO, "%s failed with %s %d; its error is above", argv[1],
            WIFEXITED(status) ? "exit status" : "signal",
            WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return bl_error_file(err, argv[0]);
}

static int read_page(const json_t *page, struct estimate *ret, struct bl_error *err)
{
    struct estimate e = {0};
    const json_t *lines = NULL;
    BL_TRY(bl_json_int(page, "peak", 0, INT64_MAX, &e.worker, err));
    BL_TRY(bl_json_int(page, "gpu_peak", 0, INT64_MAX, &e.gpu, err));
    BL_TRY(bl_json_int(page, "gpu_needed", 0, INT64_MAX, &e.gpu_needed, err));
    BL_TRY(bl_json_int(page, "gpu_total", 0, INT64_MAX, &e.gpu_total, err));
    BL_TRY(bl_json_int(page, "checkpoint", 0, INT64_MAX, &e.checkpoint, err));
    BL_TRY(bl_json_int(page, "trainable", 0, INT64_MAX, &e.trainable, err));
    BL_TRY(bl_json_container(page, "lines", JSON_ARRAY, &lines, err));
    for (size_t i = 0; i < json_array_size(lines) && e.count < ESTIMATE_LINES_MAX; i++) {
        const char *what = "";
        BL_TRY(bl_json_string(json_array_get(lines, i), "what", &what, err));
        BL_TRY(bl_json_int(json_array_get(lines, i), "bytes", 0, INT64_MAX, &e.lines[e.count].bytes,
                           err));
        snprintf(e.lines[e.count++].what, ESTIMATE_WHAT_BYTES, "%s", what);
    }
    *ret = e;
    return 0;
}

int estimate_run(const char *worker, const char *yaml, int64_t longest, int64_t threads,
                 struct estimate *ret, struct bl_error *err)
{
    char longest_text[32], threads_text[32];
    snprintf(longest_text, sizeof longest_text, "%lld", (long long)longest);
    snprintf(threads_text, sizeof threads_text, "%lld", (long long)threads);
    const char *const argv[] = {worker,       "plan",      yaml,         "--json", "--threads",
                                threads_text, "--longest", longest_text, NULL};
    bl_autofree char *page = malloc(PAGE_BYTES_MAX);
    bl_autojson json_t *json = NULL;
    size_t used;
    if (!page)
        return bl_fail(err, BL_ENOMEM, "no memory for a plan");
    BL_TRY(run(argv, page, PAGE_BYTES_MAX, &used, err));
    BL_TRY(bl_json_parse(page, used, &json, err));
    return read_page(json, ret, err);
}

int estimate_measure(const char *worker, const char *yaml, int64_t tokens, int64_t threads,
                     struct estimate_rates *ret, struct bl_error *err)
{
    char tokens_text[32], threads_text[32], page[256];
    snprintf(tokens_text, sizeof tokens_text, "%lld", (long long)tokens);
    snprintf(threads_text, sizeof threads_text, "%lld", (long long)threads);
    const char *const argv[] = {worker,       "measure",  yaml,        "--json", "--threads",
                                threads_text, "--tokens", tokens_text, NULL};
    bl_autojson json_t *json = NULL;
    size_t used;
    BL_TRY(run(argv, page, sizeof page, &used, err));
    BL_TRY(bl_json_parse(page, used, &json, err));
    float tower, step;
    BL_TRY(bl_json_float(json, "tower_images_per_s", 1e-9, 1e12, &tower, err));
    BL_TRY(bl_json_float(json, "step_images_per_s", 1e-9, 1e12, &step, err));
    *ret = (struct estimate_rates){(double)tower, (double)step};
    return 0;
}

/* -- this machine ----------------------------------------------------------------------------- */

static int64_t file_number(const char *path, const char *before)
{
    char line[256];
    long long value = 0;
    FILE *in = fopen(path, "r");
    if (!in)
        return 0;
    while (fgets(line, sizeof line, in))
        if (!strncmp(line, before, strlen(before)) &&
            sscanf(line + strlen(before), "%lld", &value) == 1)
            break;
    fclose(in);
    return value;
}

void estimate_memory(int64_t *ret_total, int64_t *ret_available)
{
    int64_t total = file_number("/proc/meminfo", "MemTotal:") * 1024;
    int64_t available = file_number("/proc/meminfo", "MemAvailable:") * 1024;
    int64_t limit = file_number("/sys/fs/cgroup/memory.max", "");
    int64_t used = file_number("/sys/fs/cgroup/memory.current", "");
    if (limit > 0 && (!total || limit < total)) {
        total = limit;
        available = bl_min(available, bl_max(limit - used, 0));
    }
    *ret_total = total;
    *ret_available = available;
}
