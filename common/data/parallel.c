/* common/data/parallel.c - see parallel.h. */
#include "common/data/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "common/deadline.h"

enum {
    THREADS_MIN = 4,
    THREADS_MAX = 32,
    WATCH_MS = 100
}; /* items wait for disks: more threads than cores may help */

struct parallel {
    const struct parallel_work *work;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a thread has ended, or the run is to end */
    /* under the lock: */
    uint64_t next, done;
    int running;
    bool stopping;
    uint64_t failed_item;
    struct bl_error failure; /* of that item; code 0: none */
};

bool parallel_wait(void *run, uint32_t ms)
{
    struct parallel *p = run;
    struct timespec until = bl_deadline(ms);
    pthread_mutex_lock(&p->lock);
    while (!p->stopping && pthread_cond_timedwait(&p->changed, &p->lock, &until) == 0)
        ;
    bool stopping = p->stopping;
    pthread_mutex_unlock(&p->lock);
    return !stopping;
}

static void fail(struct parallel *p, uint64_t item, const struct bl_error *err)
{
    p->stopping = true;
    pthread_cond_broadcast(&p->changed);
    if (err->code == BL_ESTOPPED || (p->failure.code && p->failed_item < item))
        return;
    p->failed_item = item;
    p->failure = *err;
}

static void *run_thread(void *argument)
{
    struct parallel *p = argument;
    pthread_mutex_lock(&p->lock);
    while (!p->stopping && p->next < p->work->count) {
        uint64_t i = p->next++;
        struct bl_error err;
        pthread_mutex_unlock(&p->lock);
        int rc = p->work->item(p->work->context, p, i, &err);
        pthread_mutex_lock(&p->lock);
        p->done++;
        if (rc < 0)
            fail(p, i, &err);
    }
    p->running--;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Until all threads have ended. The lock is held. */
static void watch(struct parallel *p)
{
    const struct parallel_work *work = p->work;
    while (p->running) {
        struct timespec until = bl_deadline(WATCH_MS);
        while (p->running && pthread_cond_timedwait(&p->changed, &p->lock, &until) == 0)
            ;
        uint64_t done = p->done;
        pthread_mutex_unlock(&p->lock);
        bool go_on = !work->watch || work->watch(work->context, done);
        pthread_mutex_lock(&p->lock);
        if (!go_on) {
            p->stopping = true;
            pthread_cond_broadcast(&p->changed);
        }
    }
}

static int thread_count(uint64_t items)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : THREADS_MIN;
    int count = cores < THREADS_MIN ? THREADS_MIN : cores > THREADS_MAX ? THREADS_MAX : cores;
    return items < (uint64_t)count ? (int)items : count;
}

static int verdict(const struct parallel *p, struct bl_error *err)
{
    if (p->failure.code) {
        if (err)
            *err = p->failure;
        return -p->failure.code;
    }
    return p->stopping ? bl_fail(err, BL_ESTOPPED, "stopped on request") : 0;
}

int parallel_run(const struct parallel_work *work, struct bl_error *err)
{
    struct parallel p = {.work = work};
    pthread_t threads[THREADS_MAX];
    pthread_condattr_t monotonic;
    int count = 0, wanted = thread_count(work->count);
    pthread_mutex_init(&p.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_lock(&p.lock);
    while (count < wanted && pthread_create(&threads[count], NULL, run_thread, &p) == 0)
        p.running = ++count;
    bool none = wanted && !count;
    watch(&p);
    pthread_mutex_unlock(&p.lock);
    while (count)
        pthread_join(threads[--count], NULL);
    pthread_cond_destroy(&p.changed);
    pthread_mutex_destroy(&p.lock);
    return none ? bl_fail(err, BL_ENOMEM, "no thread can be started") : verdict(&p, err);
}
