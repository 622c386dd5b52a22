/* tests/unit/ops_router_test.c - the mixture of experts: softmax, dense mixture, and the gradient
 * of cross entropy, load balance and z loss together, against central differences. */
#include "tests/unit/ops.h"

struct input {
    int64_t B, E, rows, D;
    const float *z, *c, *x, *d_y, *P;
    double *w, *lse, *d_z;
};

static const double tokens = 37, images = 19;
static const float alpha = 0.5f, beta = 0.25f;

/* z -> w (B,E), lse (B) */
static void softmax(const struct input *in, const double *z, double *w, double *lse)
{
    for (int64_t b = 0; b < in->B; b++) {
        double sum = 0;
        for (int64_t e = 0; e < in->E; e++)
            sum += exp(z[b * in->E + e]);
        lse[b] = log(sum);
        for (int64_t e = 0; e < in->E; e++)
            w[b * in->E + e] = exp(z[b * in->E + e]) / sum;
    }
}

/* recipe.md, Loss, with sum CE = sum c w (so that c is its gradient) and P the mean over the images
 * at hand and the rest of the global batch. */
static void loss(const void *input, const double *z, double *L)
{
    const struct input *in = input;
    double *w = malloc((size_t)(in->B * in->E + 1) * sizeof *w);
    double *lse = malloc((size_t)(in->B + 1) * sizeof *lse);
    softmax(in, z, w, lse);
    *L = 0;
    for (int64_t b = 0; b < in->B; b++)
        *L += beta / images * lse[b] * lse[b];
    for (int64_t e = 0; e < in->E; e++) {
        double P = in->P[e];
        for (int64_t b = 0; b < in->B; b++) {
            *L += in->c[b * in->E + e] * w[b * in->E + e] / tokens;
            P += (w[b * in->E + e] - in->w[b * in->E + e]) / images;
        }
        *L += alpha * (double)in->E * P * P;
    }
    free(w);
    free(lse);
}

static void run_router(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t B = in->B, E = in->E;
    act *z = run_act(run, in->z, B * E), *d_z = run_act(run, NULL, B * E);
    float *w = run_f32(run, NULL, B * E), *lse = run_f32(run, NULL, B);
    ops->router_softmax(ops, w, lse, z, B, E);
    run_expect_f32(run, "w", w, in->w, B * E, 8);
    run_expect_f32(run, "lse", lse, in->lse, B, 8);
    ops->router_backward(ops, d_z, run_f32(run, in->c, B * E), w, lse, run_f32(run, in->P, E),
                         tokens, images, alpha, beta, B, E);
    run_expect_act(run, "d_z", d_z, in->d_z, B * E, 16);
    float *alone = run_f32(run, NULL, B * E);
    ops->router_softmax(ops, alone, NULL, z, B, E);
    run_expect_f32(run, "w alone", alone, in->w, B * E, 8);
}

static void the_router_s_gradient_is_that_of_the_whole_loss(void **state)
{
    static const int64_t shapes[][2] = {{0, 4}, {1, 1}, {5, 4}, {33, 3}};
    for (int64_t s = 0; s < COUNT(shapes); s++) {
        struct input in = {.B = shapes[s][0], .E = shapes[s][1]};
        const int64_t count = in.B * in.E;
        const double one = 1;
        in.z = random_f32(1, count);
        in.c = random_f32(2, count);
        in.P = random_f32(3, in.E);
        in.w = zeros(count);
        in.lse = zeros(in.B);
        in.d_z = zeros(count);
        const double *z = doubles(in.z, count);
        softmax(&in, z, in.w, in.lse);
        central_differences(in.d_z, loss, &in, z, count, &one, 1, 1);
        ops_each((struct cpu_options){.precision = OPS_F32}, run_router, &in);
        arrays_free();
    }
}

static void run_mix(struct ops_run *run, const void *input)
{
    const struct input *in = input;
    struct ops *ops = run_ops(run);
    const int64_t B = in->B, E = in->E, e = E - 1, size = in->rows * in->D, count = B * size;
    const float *w = random_f32(5, B * E), *x_e = in->x + e * count;
    double *y = zeros(count), *d_x = zeros(count), *d_w = doubles(w, B * E);
    for (int64_t b = 0; b < B; b++) {
        d_w[b * E + e] = 0;
        for (int64_t i = b * size; i < (b + 1) * size; i++) {
            for (int64_t f = 0; f < E; f++)
                y[i] += (double)w[b * E + f] * in->x[f * count + i];
            d_x[i] = (double)w[b * E + e] * in->d_y[i];
            d_w[b * E + e] += (double)in->d_y[i] * x_e[i];
        }
    }
    act *x = run_act(run, in->x, E * count), *d_y = run_act(run, in->d_y, count);
    act *out = run_act(run, NULL, count);
    float *weights = run_f32(run, w, B * E), *d_weights = run_f32(run, w, B * E);
    ops->mix_forward(ops, out, x, weights, B, E, in->rows, in->D);
    run_expect_act(run, "y", out, y, count, (double)E);
    ops->mix_backward(ops, out, d_weights, d_y, ops_at(ops, x, e * count), weights, e, B, E,
                      in->rows, in->D);
    run_expect_act(run, "d_x", out, d_x, count, 2);
    run_expect_f32(run, "d_w", d_weights, d_w, B * E, 32);
}

static void the_mixture_weighs_each_image_and_returns_the_weights_gradient(void **state)
{
    static const struct input shapes[] = {
        {.B = 0, .E = 2, .rows = 3, .D = 4},    {.B = 1, .E = 1, .rows = 1, .D = 1},
        {.B = 5, .E = 4, .rows = 3, .D = 33},   {.B = 2, .E = 3, .rows = 32, .D = 576},
        {.B = 9, .E = 2, .rows = 257, .D = 31},
    };
    for (int64_t s = 0; s < COUNT(shapes); s++) {
        struct input in = shapes[s];
        in.x = random_f32(1, in.E * in.B * in.rows * in.D);
        in.d_y = random_f32(2, in.B * in.rows * in.D);
        ops_each((struct cpu_options){.precision = OPS_F32}, run_mix, &in);
        arrays_free();
    }
}

UNIT_MAIN(cmocka_unit_test(the_router_s_gradient_is_that_of_the_whole_loss),
          cmocka_unit_test(the_mixture_weighs_each_image_and_returns_the_weights_gradient))
