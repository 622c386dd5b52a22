/* tests/unit/ops.c - running an operation's case on every backend. */
#include "tests/unit/ops.h"

#include "worker/ops/cpu/functions.h"

enum { ALLOCATIONS_MAX = 64, RESULTS_MAX = 32 };

struct ops_run {
    struct ops *ops;
    int repeat;
    void *memory[ALLOCATIONS_MAX];
    int memory_count;
    /* Results of the first run of this variant, in the order of the expectations. */
    struct {
        void *bytes;
        size_t size;
    } seen[RESULTS_MAX];
    int seen_count, result;
};

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
    for (int64_t i = 0; i < count; i++) {
        uint32_t words[4];
        bl_draw(seed + ops_backend().seed, BL_RANDOM_INIT, (uint64_t)i / 4, 0, words);
        x[i] = 2 * bl_unit_f32(words[i % 4]) - 1;
        if (ops_backend().short_values)
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

/* What all cases of this program came to; printed at its end where BLIPREN_CASES is set. */
static int cases;
static double worst[2]; /* error beside |expected| + scale: f32 numbers, bf16 numbers */

static void print_cases(void)
{
    printf("cases=%d worst_f32=%.2e worst_bf16=%.2e\n", cases, worst[0], worst[1]);
}

void ops_each(struct cpu_options options, void (*f)(struct ops_run *, const void *),
              const void *input)
{
    const struct ops_backend backend = ops_backend();
    if (cases == 0 && getenv("BLIPREN_CASES"))
        atexit(print_cases);
    for (int variant = 0; variant < backend.variants; variant++, cases++) {
        struct ops_run run = {.ops = NULL};
        for (run.repeat = 0; run.repeat < backend.repeats; run.repeat++) {
            struct bl_error err;
            assert_ok(backend.open(options, variant, run.repeat, &run.ops, &err), err);
            run.result = 0;
            f(&run, input);
            assert_ok(run.ops->sync(run.ops, &err), err);
            while (run.memory_count)
                run.ops->release(run.ops, run.memory[--run.memory_count]);
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

/* The first run of a variant is remembered, the others must repeat it. */
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
        fail_msg("%s: %s: other bits than the first time", run->ops->name, name);
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

/* The root mean square of what is compared, at least 2^-4. */
static double scale_of(const double *expected, int64_t count)
{
    double squares = 0;
    int64_t compared = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(expected[i])) {
            squares += expected[i] * expected[i];
            compared++;
        }
    return compared ? fmax(sqrt(squares / (double)compared), 0x1p-4) : 0;
}

/* Of numbers that were f32 or bf16 on the device. */
static void expect_near(struct ops_run *run, const char *name, const float *got, bool is_bf16,
                        const double *expected, int64_t count, double limit)
{
    const double scale = scale_of(expected, count);
    for (int64_t i = 0; i < count; i++) {
        if (isnan(expected[i]) || got[i] == expected[i])
            continue;
        const double size = fabs(expected[i]) + scale, error = fabs(got[i] - expected[i]) / size;
        if (!(error <= limit)) /* infinite or not a number: neither */
            fail_msg("%s: %s[%lld] of %lld: expected %.9g within %.3g, found %.9g", run->ops->name,
                     name, (long long)i, (long long)count, expected[i], limit * size, got[i]);
        worst[is_bf16] = fmax(worst[is_bf16], error);
    }
}

void run_expect_f32(struct ops_run *run, const char *name, const float *got, const double *expected,
                    int64_t count, double tolerance)
{
    float *host = malloc((size_t)count * sizeof *host + 1);
    run->ops->copy_out(run->ops, host, got, (size_t)count * sizeof *host);
    expect_near(run, name, host, false, expected, count, tolerance * 0x1p-23);
    expect_bits(run, name, host, (size_t)count * sizeof *host);
    free(host);
}

void run_read_act(struct ops_run *run, float *host, const act *x, int64_t count)
{
    float *values = run_f32(run, NULL, count);
    run->ops->act_to_f32(run->ops, values, x, count);
    run->ops->copy_out(run->ops, host, values, (size_t)count * sizeof *host);
}

void run_expect_act(struct ops_run *run, const char *name, const act *got, const double *expected,
                    int64_t count, double tolerance)
{
    const bool is_bf16 = run->ops->act_bytes == 2;
    const double limit = is_bf16 && tolerance > 0 ? BF16_ERROR : tolerance * 0x1p-23;
    float *host = malloc((size_t)count * sizeof *host + 1);
    run_read_act(run, host, got, count);
    expect_near(run, name, host, is_bf16, expected, count, limit);
    expect_bits(run, name, host, (size_t)count * sizeof *host);
    free(host);
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
