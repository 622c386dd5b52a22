/* tests/unit/ops.c - running an operation's case on every backend. */
#include "tests/unit/ops.h"

#include "worker/ops/cpu/functions.h"

enum { ALLOCATIONS_MAX = 64, RESULTS_MAX = 32 };

struct ops_run {
    struct ops *ops;
    enum cpu_isa isa;
    int threads;
    void *memory[ALLOCATIONS_MAX];
    int memory_count;
    /* Results of the first run of this instruction set, in the order of the expectations. */
    struct {
        void *bytes;
        size_t size;
    } seen[RESULTS_MAX];
    int seen_count, result;
    double worst; /* relative error of this case in the Euclidean norm, on a device */
};

static struct ops *device; /* BLIPREN_OPS's, opened once; NULL: the CPU, in every form */
static uint64_t fresh;     /* BLIPREN_SEED */

static bool open_device(void)
{
    const char *name = getenv("BLIPREN_OPS"), *precision = getenv("BLIPREN_PRECISION");
    if (device || !name)
        return device != NULL;
    bool narrow = precision && strcmp(precision, "bf16") == 0;
    struct ops_device chosen;
    struct bl_error err;
    assert_ok(ops_device_choose(name, &chosen, &err), err);
    assert_ok(ops_open(&chosen, narrow ? OPS_BF16 : OPS_F32, 1, &device, &err), err);
    fresh = strtoull(getenv("BLIPREN_SEED") ? getenv("BLIPREN_SEED") : "0", NULL, 10);
    return true;
}

static void *arrays[4 * ALLOCATIONS_MAX];
static int array_count;

static void *array_alloc(size_t bytes)
{
    assert_true(array_count < COUNT(arrays));
    return arrays[array_count++] = calloc(1, bytes + 1);
}

void arrays_free(void)
{
    while (array_count)
        free(arrays[--array_count]);
}

float *random_f32(uint64_t seed, int64_t count)
{
    float *x = array_alloc((size_t)count * sizeof *x);
    bool narrow = open_device() && device->precision == OPS_BF16;
    for (int64_t i = 0; i < count; i++) {
        uint32_t words[4];
        bl_draw(seed + 1000 * fresh, BL_RANDOM_INIT, (uint64_t)i / 4, 0, words);
        x[i] = 2 * bl_unit_f32(words[i % 4]) - 1;
        if (narrow)
            x[i] = bf16_to_f32(f32_to_bf16(x[i]));
    }
    return x;
}

double *zeros(int64_t count)
{
    return array_alloc((size_t)count * sizeof(double));
}

double *doubles(const float *x, int64_t count)
{
    double *y = zeros(count);
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i];
    return y;
}

double *concat(int count, ...)
{
    va_list args;
    int64_t total = 0;
    va_start(args, count);
    for (int i = 0; i < count; i++) {
        va_arg(args, const float *);
        total += va_arg(args, int64_t);
    }
    va_end(args);
    double *y = zeros(total), *at = y;
    va_start(args, count);
    for (int i = 0; i < count; i++) {
        const float *x = va_arg(args, const float *);
        for (int64_t n = va_arg(args, int64_t); n > 0; n--)
            *at++ = *x++;
    }
    va_end(args);
    return y;
}

static void release(struct ops_run *run)
{
    while (run->memory_count)
        run->ops->release(run->ops, run->memory[--run->memory_count]);
}

/* References of the other precision know what it rounds; this one does not. */
static void run_on_device(struct ops_run *run, enum ops_precision precision,
                          void (*f)(struct ops_run *, const void *), const void *input)
{
    struct bl_error err;
    run->ops = device;
    if (device->precision == OPS_F32 && precision != OPS_F32)
        return;
    for (run->threads = 1; run->threads <= 2; run->threads++) {
        run->result = 0;
        f(run, input);
        assert_ok(device->sync(device, &err), err);
        release(run);
    }
    while (run->seen_count)
        free(run->seen[--run->seen_count].bytes);
    printf("case worst=%.2e\n", run->worst);
}

bool run_is_narrow(const struct ops_run *run)
{
    return run->ops->act_bytes == 2;
}

void ops_each(struct cpu_options options, void (*f)(struct ops_run *, const void *),
              const void *input)
{
    static const int threads[] = {1, 2, 3, 2};
    if (open_device()) {
        run_on_device(&(struct ops_run){0}, options.precision, f, input);
        return;
    }
    for (enum cpu_isa isa = CPU_PLAIN; isa <= cpu_isa_best(); isa++) {
        struct ops_run run = {.isa = isa};
        for (int i = 0; i < COUNT(threads); i++) {
            struct bl_error err;
            options.isa = isa;
            options.threads = threads[i];
            assert_ok(cpu_open(&options, &run.ops, &err), err);
            run.threads = threads[i];
            run.result = 0;
            f(&run, input);
            assert_ok(run.ops->sync(run.ops, &err), err);
            release(&run);
            ops_free(&run.ops);
        }
        while (run.seen_count)
            free(run.seen[--run.seen_count].bytes);
    }
}

struct ops *run_ops(struct ops_run *run)
{
    return run->ops;
}

static void *run_alloc(struct ops_run *run, size_t bytes)
{
    struct bl_error err;
    void *p = NULL;
    assert_true(run->memory_count < ALLOCATIONS_MAX);
    assert_ok(run->ops->alloc(run->ops, bytes, &p, &err), err);
    assert_int_equal((uintptr_t)p % 64, 0);
    return run->memory[run->memory_count++] = p;
}

void *run_bytes(struct ops_run *run, const void *x, size_t bytes)
{
    void *p = run_alloc(run, bytes);
    if (x)
        run->ops->copy_in(run->ops, p, x, bytes);
    else
        run->ops->zero(run->ops, p, bytes);
    return p;
}

float *run_f32(struct ops_run *run, const float *x, int64_t count)
{
    float *nan = NULL;
    if (!x) {
        nan = malloc((size_t)count * sizeof *nan + 1);
        for (int64_t i = 0; i < count; i++)
            nan[i] = NAN;
    }
    float *p = run_bytes(run, x ? x : nan, (size_t)count * sizeof *p);
    free(nan);
    return p;
}

act *run_act(struct ops_run *run, const float *x, int64_t count)
{
    const float *values = run_f32(run, x, count);
    act *p = run_alloc(run, (size_t)count * run->ops->act_bytes);
    run->ops->act_from_f32(run->ops, p, values, count);
    return p;
}

/* The first run of an instruction set is remembered, the others must repeat it. */
static void expect_bits(struct ops_run *run, const char *name, const void *got, size_t bytes)
{
    assert_true(run->result < RESULTS_MAX);
    int i = run->result++;
    if (i == run->seen_count) {
        run->seen[i].bytes = malloc(bytes + 1);
        run->seen[i].size = bytes;
        memcpy(run->seen[i].bytes, got, bytes);
        run->seen_count++;
    } else if (run->seen[i].size != bytes || memcmp(run->seen[i].bytes, got, bytes) != 0) {
        fail_msg("%s: %s: other bits with %d threads than with 1", run->ops->name, name,
                 run->threads);
    }
}

void run_expect_bytes(struct ops_run *run, const char *name, const void *got, const void *expected,
                      size_t bytes)
{
    char *host = malloc(bytes + 1);
    run->ops->copy_out(run->ops, host, got, bytes);
    if (expected && memcmp(host, expected, bytes) != 0)
        fail_msg("%s: %s: other bytes than expected", run->ops->name, name);
    expect_bits(run, name, host, bytes);
    free(host);
}

/* Of the finite ones. */
static double distance(const float *got, const double *expected, int64_t count)
{
    double squares = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(expected[i]))
            squares += (got[i] - expected[i]) * (got[i] - expected[i]);
    return sqrt(squares);
}

void run_expect_f32(struct ops_run *run, const char *name, const float *got, const double *expected,
                    int64_t count, double tolerance)
{
    float *host = malloc((size_t)count * sizeof *host + 1);
    run->ops->copy_out(run->ops, host, got, (size_t)count * sizeof *host);
    double squares = 0;
    int64_t compared = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(expected[i])) {
            squares += expected[i] * expected[i];
            compared++;
        }
    double scale = compared ? fmax(sqrt(squares / (double)compared), 0x1p-4) : 0;
    double eps = 0x1p-23;
    if (device) {
        double relative = distance(host, expected, count) / fmax(sqrt(squares), 1e-30);
        if (compared >= 64)
            run->worst = fmax(run->worst, relative);
        if (compared >= 64 && relative > (run_is_narrow(run) ? 1e-2 : 1e-5))
            fail_msg("%s: %s (%lld): relative error %.2e", run->ops->name, name, (long long)count,
                     relative);
        tolerance = run_is_narrow(run) ? 6 : 4 * tolerance;
        eps = run_is_narrow(run) ? 0x1p-8 : eps;
    }
    for (int64_t i = 0; i < count; i++) {
        double bar = tolerance * eps * (fabs(expected[i]) + scale);
        bool same = host[i] == expected[i], near = fabs(host[i] - expected[i]) <= bar;
        if (!isnan(expected[i]) && !same && (isinf(expected[i]) || !near))
            fail_msg("%s, %d threads: %s[%lld] of %lld: expected %.9g within %.3g, found %.9g",
                     run->ops->name, run->threads, name, (long long)i, (long long)count,
                     expected[i], bar, host[i]);
    }
    expect_bits(run, name, host, (size_t)count * sizeof *host);
    free(host);
}

void run_copy_act(struct ops_run *run, float *host, const act *x, int64_t count)
{
    float *values = run_f32(run, NULL, count);
    run->ops->act_to_f32(run->ops, values, x, count);
    run->ops->copy_out(run->ops, host, values, (size_t)count * sizeof *host);
}

void run_expect_act(struct ops_run *run, const char *name, const act *got, const double *expected,
                    int64_t count, double tolerance)
{
    float *values = run_f32(run, NULL, count);
    run->ops->act_to_f32(run->ops, values, got, count);
    run_expect_f32(run, name, values, expected, count, tolerance);
}

void central_differences(double *d, void (*f)(const void *input, const double *x, double *y),
                         const void *input, const double *x, int64_t x_count, const double *weight,
                         int64_t y_count, int64_t stride)
{
    const double h = 0x1p-13;
    double *moved = malloc((size_t)x_count * sizeof *moved + 1);
    double *low = calloc((size_t)y_count + 1, sizeof *low);
    double *high = calloc((size_t)y_count + 1, sizeof *high);
    memcpy(moved, x, (size_t)x_count * sizeof *moved);
    for (int64_t i = 0; i < x_count; i++) {
        d[i] = NAN;
        if (i % stride)
            continue;
        moved[i] = x[i] - h;
        f(input, moved, low);
        moved[i] = x[i] + h;
        f(input, moved, high);
        moved[i] = x[i];
        d[i] = 0;
        for (int64_t o = 0; o < y_count; o++)
            d[i] += weight[o] * (high[o] - low[o]) / (2 * h);
    }
    free(moved);
    free(low);
    free(high);
}
