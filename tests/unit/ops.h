/* tests/unit/ops.h - what the tests of the operations share.
 *
 * A case has inputs in f32, its own reference in double (plain loops), and a function that runs the
 * operation on one backend and says what it expects. ops_each runs that function on every variant of
 * the backend that the test is linked with, several times: results must lie within tolerance of the
 * reference, and be the same bits each time. Gradients are expected to equal central differences of
 * the reference.
 *
 * ops_cpu.c      a variant is an instruction set of this processor, run with 1, 2, 3 and 2 threads.
 * ops_device.c   likewise, on the device that BLIPREN_OPS names.
 * tests/cudasim  a variant is an element type of activations, f32 or bf16; the kernels run on the host
 *                shim, their threads each time in another order.
 */
#pragma once

#include "tests/unit/unit.h"

#include <math.h>

#include "common/random.h"
#include "worker/ops/cpu/cpu.h"
#include "worker/ops/cpu/panels.h"

#define COUNT(array) ((int64_t)(sizeof(array) / sizeof *(array)))

/* One run of a case on one backend. */
struct ops_run;

struct ops_backend {
    int variants, repeats;
    bool short_values; /* random_f32 gives what bf16 holds */
    /* NULL, or it can multiply so (worker/ops/cpu/panels.h) */
    const struct panels_form *bfp, *amx, *amx_f32;
    uint64_t seed; /* added to that of every random_f32 */
    int (*open)(struct cpu_options options, int variant, int repeat, struct ops **ret,
                struct bl_error *err);
};
/* The one that the test is linked with. */
struct ops_backend ops_backend(void);

/* Runs `run` on each variant. The options are the CPU's; isa and threads are overwritten. */
void ops_each(struct cpu_options options, void (*run)(struct ops_run *, const void *),
              const void *input);
struct ops *run_ops(struct ops_run *run);

/* Device copies, released after the run. NULL x: filled with NaN, to see that a result is written.
 */
act *run_act(struct ops_run *run, const float *x, int64_t count);
float *run_f32(struct ops_run *run, const float *x, int64_t count);
/* Any other type. */
void *run_bytes(struct ops_run *run, const void *x, size_t bytes);

/* act -> f32 on the host */
void run_read_act(struct ops_run *run, float *host, const act *x, int64_t count);

/* |got - expected| <= tolerance eps (|expected| + scale) for each element, eps = 2^-23, scale =
 * root mean square of expected, at least 2^-4: inputs are of order one, gradients may cancel to
 * zero. Where `act` is bf16 the bar for it is BF16_ERROR (|expected| + scale), or 0 as said. An expected
 * NAN is not compared; bits are, all of them. */
#define BF16_ERROR 1e-2
void run_expect_act(struct ops_run *run, const char *name, const act *got, const double *expected,
                    int64_t count, double tolerance);
void run_expect_f32(struct ops_run *run, const char *name, const float *got, const double *expected,
                    int64_t count, double tolerance);
/* Bits alone. */
void run_expect_bytes(struct ops_run *run, const char *name, const void *got, const void *expected,
                      size_t bytes);

/* Numbers in [-1, 1), the same for the same seed. Released by the test (arrays_free). */
float *random_f32(uint64_t seed, int64_t count);
double *doubles(const float *x, int64_t count);
/* A zeroed array of doubles. */
double *zeros(int64_t count);
/* a then b then ... in one array: `count` pairs of const float *, int64_t. */
double *concat(int count, ...);
/* Frees everything made by the four functions above. */
void arrays_free(void);

/* d[i] = sum_o weight[o] d y_o / d x_i of y = f(x) at every `stride`-th i, NAN elsewhere. */
void central_differences(double *d, void (*f)(const void *input, const double *x, double *y),
                         const void *input, const double *x, int64_t x_count, const double *weight,
                         int64_t y_count, int64_t stride);
