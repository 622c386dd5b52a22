/* coordinator/children.h - `--local W,L`: the workers and loaders of this host, started, watched and started again.
 *
 * A child learns its parent's process number and dies with it (PR_SET_PDEATHSIG in the child), and a secret number, by which its
 * Hello is known: names say nothing. What it prints goes to RUN/logs/NAME.log. One that dies is started again, unless it left as it
 * was told (exit code 0). After FAILURES_MAX deaths of its own making in RESTART_WINDOW_MS, or OUT_OF_MEMORY_MAX by the kernel's
 * hand, it is given up: then something is wrong, and its log's last line says what. Somebody's kill is not counted. */
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "common/error.h"

struct children;

struct child_end {
    const char *name;
    uint64_t secret;
    int pid, exit_code, signal;
    bool out_of_memory; /* the kernel has killed for lack of memory meanwhile */
    /* By a signal that nobody but another process sends, and the kernel is known to have killed none for lack of memory meanwhile. */
    bool killed;
    int64_t peak; /* bytes of memory it had at most when it was last looked at; 0: not known */
};

struct children_options {
    uv_loop_t *loop;
    const char *run_folder, *endpoint;
    const char *keys; /* folder of the cluster's keys; NULL: none */
    int workers, loaders;
    const char *device;                  /* of the workers: --device; NULL: auto */
    int threads;                         /* OpenMP threads of one worker */
    int loader_threads, loader_capacity; /* of one loader; 0: it chooses */
    /* A child is given up: the run cannot go on by itself. last_line is its log's. */
    void (*given_up)(void *context, const char *name, const char *last_line);
    /* A child ended; it will be started again unless stopping. */
    void (*ended)(void *context, const struct child_end *end);
    void *context;
};

int children_open(const struct children_options *options, struct children **ret,
                  struct bl_error *err);
/* From now on so many workers, at most BL_LOCAL_WORKERS_MAX: those that are missing are started. Of those with higher numbers
 * `dismiss` is called with the secret: the process leaves when it is told to, and is not started again. False: nobody can
 * tell it, and it gets SIGTERM. */
void children_scale(struct children *children, int workers,
                    bool (*dismiss)(void *context, uint64_t secret), void *context);
/* Workers that are to run. */
int children_workers(const struct children *children);
/* No more restarts: they were told to leave, with the run's code. */
void children_let_go(struct children *children);
/* No more restarts; SIGTERM (or SIGKILL when `at_once`) to all. */
void children_stop(struct children *children, bool at_once);
/* Still running? */
int children_running(const struct children *children);
/* Has one of them this secret (0: nobody), and its end is not told yet? NULL has none. */
bool children_runs(const struct children *children, uint64_t secret);
/* Looks at how much memory they have; to be called now and then. */
void children_watch(struct children *children);
/* Kills what is left and closes the handles; the loop must run on until they are closed. */
void children_close(struct children **children);
