/* tests/unit/ops.h - what the tests of the operations share.
 *
 * A case has inputs in f32, its own reference in double (plain loops), and a function that runs the
 * operation on one backend and says what it expects. ops_each runs that function on every
 * instruction set of this processor, each with 1, 2, 3 and again 2 threads: results must lie within
 * tolerance of the reference, and be the same bits for every number of threads. Gradients are
 * expected to equal central differences of the reference.
 *
 * BLIPREN_OPS=cuda:0 runs the cases on that device instead, twice each, in the precision
 * BLIPREN_PRECISION (bf16, or f32: the default), with inputs drawn from the seed BLIPREN_SEED (0):
 * then an element may be off by 4 tolerances in f32, by 6 * 2^-8 (|expected| + scale) in bf16, and of
 * 64 or more elements the relative error in the Euclidean norm is at most 1e-5 in f32, 1e-2 in bf16.
 */
#pragma once

#include "tests/unit/unit.h"

#include <math.h>

#include "common/random.h"
#include "worker/ops/cpu/cpu.h"

#define COUNT(array) ((int64_t)(sizeof(array) / sizeof *(array)))

/* One run of a case on one backend. */
struct ops_run;

/* Are the elements of `act` bf16, so that what hangs on single bits of them cannot be expected? */
bool run_is_narrow(const struct ops_run *run);

/* Runs `run` on each backend; isa and threads of the options are overwritten. */
void ops_each(struct cpu_options options, void (*run)(struct ops_run *, const void *),
              const void *input);
struct ops *run_ops(struct ops_run *run);

/* Device copies, released after the run. NULL x: filled with NaN, to see that a result is written.
 */
act *run_act(struct ops_run *run, const float *x, int64_t count);
float *run_f32(struct ops_run *run, const float *x, int64_t count);
/* Any other type. */
void *run_bytes(struct ops_run *run, const void *x, size_t bytes);

/* The values of x, on the host. */
void run_copy_act(struct ops_run *run, float *host, const act *x, int64_t count);

/* |got - expected| <= tolerance eps (|expected| + scale) for each element, eps = 2^-23, scale =
 * root mean square of expected, at least 2^-4: inputs are of order one, gradients may cancel to
 * zero. An expected NAN is not compared; bits are, all of them. */
void run_expect_act(struct ops_run *run, const char *name, const act *got, const double *expected,
                    int64_t count, double tolerance);
void run_expect_f32(struct ops_run *run, const char *name, const float *got, const double *expected,
                    int64_t count, double tolerance);
/* Bits alone. */
void run_expect_bytes(struct ops_run *run, const char *name, const void *got, const void *expected,
                      size_t bytes);

/* Numbers in [-1, 1), the same for the same seed; bf16 has them where a device computes in it. Released by the test (arrays_free). */
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
