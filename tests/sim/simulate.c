/* tests/sim/simulate.c - runs fault schedules: simulate [--schedules N] [--seed S] [--jobs J] [--failed FILE] [--verbose]
 *
 * Schedule k of a run has seed S + k. The seeds in FILE (one a line, # for comments: those that once failed) run first.
 * Exit: 0 all held, 3 an assert, 4 a safety rule broken, 5 not finished after everything was mended. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sim.h"

#define JOBS_MAX 64
#define FAILED_MAX 1024

struct totals {
    uint64_t schedules, events, generations, rewinds, crashes, taken, hedges;
};

static uint64_t failed_seeds[FAILED_MAX];
static int failed_count;

static void on_abort(int signal_number)
{
    /* NOLINTNEXTLINE(bugprone-signal-handler): the process ends here, whatever printing breaks */
    sim_fail(SIM_ASSERT, "signal %d", signal_number);
}

static void read_failed(const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f) {
        perror(path);
        exit(2);
    }
    char line[256];
    while (fgets(line, sizeof line, f) && failed_count < FAILED_MAX) {
        char *end;
        uint64_t seed = strtoull(line, &end, 10);
        if (end != line)
            failed_seeds[failed_count++] = seed;
    }
    fclose(f);
}

static void run_one(uint64_t seed, bool verbose, struct totals *totals)
{
    struct sim_result result = sim_run(&(struct sim_options){.seed = seed, .verbose = verbose});
    totals->schedules++;
    totals->events += result.events;
    totals->generations += result.generations;
    totals->rewinds += result.rewinds;
    totals->crashes += result.crashes;
    totals->taken += result.taken;
    totals->hedges += result.hedges;
}

/* One child: every jobs-th schedule; its totals go up the pipe. */
static void run_share(int job, int jobs, uint64_t seed, uint64_t schedules, bool verbose,
                      int pipe_fd)
{
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    struct totals totals = {0};
    for (int i = job; i < failed_count; i += jobs)
        run_one(failed_seeds[i], verbose, &totals);
    for (uint64_t k = (uint64_t)job; k < schedules; k += (uint64_t)jobs)
        run_one(seed + k, verbose, &totals);
    if (write(pipe_fd, &totals, sizeof totals) != (ssize_t)sizeof totals)
        _exit(1);
    _exit(0);
}

int main(int argc, char **argv)
{
    uint64_t schedules = 1000, seed = 1;
    int jobs = 1;
    bool verbose = false;
    static const struct option options[] = {
        {"schedules", required_argument, NULL, 'n'}, {"seed", required_argument, NULL, 's'},
        {"jobs", required_argument, NULL, 'j'},      {"failed", required_argument, NULL, 'f'},
        {"verbose", no_argument, NULL, 'v'},         {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'n')
            schedules = strtoull(optarg, NULL, 10);
        else if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else if (option == 'j')
            jobs = atoi(optarg);
        else if (option == 'f')
            read_failed(optarg);
        else if (option == 'v')
            verbose = true;
        else
            return 2;
    }
    if (jobs < 1 || jobs > JOBS_MAX) {
        fprintf(stderr, "simulate: --jobs: expected 1 to %d but found %d\n", JOBS_MAX, jobs);
        return 2;
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    pid_t children[JOBS_MAX];
    int fds[2];
    if (pipe(fds) < 0)
        return 2;
    for (int job = 0; job < jobs; job++) {
        children[job] = fork();
        if (children[job] == 0)
            run_share(job, jobs, seed, schedules, verbose, fds[1]);
    }
    int code = 0;
    for (int job = 0; job < jobs; job++) {
        int status;
        waitpid(children[job], &status, 0);
        int child = WIFEXITED(status) ? WEXITSTATUS(status) : SIM_ASSERT;
        if (child != 0 && code == 0)
            code = child;
    }
    if (code != 0)
        return code;
    close(fds[1]);
    struct totals sum = {0}, part;
    while (read(fds[0], &part, sizeof part) == (ssize_t)sizeof part) {
        sum.schedules += part.schedules;
        sum.events += part.events;
        sum.generations += part.generations;
        sum.rewinds += part.rewinds;
        sum.crashes += part.crashes;
        sum.taken += part.taken;
        sum.hedges += part.hedges;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("simulate: schedules=%llu seed=%llu events=%llu crashes=%llu taken_over=%llu "
           "generations=%llu rewinds=%llu hedges=%llu s=%.1f\n",
           (unsigned long long)sum.schedules, (unsigned long long)seed,
           (unsigned long long)sum.events, (unsigned long long)sum.crashes,
           (unsigned long long)sum.taken, (unsigned long long)sum.generations,
           (unsigned long long)sum.rewinds, (unsigned long long)sum.hedges,
           (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9);
    return 0;
}
