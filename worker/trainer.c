/* worker/trainer.c - the training step. See trainer.h for the invariants it keeps. */
#include "worker/trainer.h"

#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/size.h"

/* Elements of one all-reduce: long enough to use the wire well, short enough to start while
 * backward still runs. */
#define BUCKET (1 << 20)

/* Fixed-point unit of the sums that are multiples of 2^-24 (captioner.h). */
#define SUM_SCALE 0x1p24

/* What travels with the gradients: integers, so that the order of adding cannot matter. */
enum {
    SUM_TOKENS,
    SUM_IMAGES,
    SUM_BAD,
    SUM_NLL,
    SUM_ENTROPY,
    SUM_LSE2,
    SUM_SHARE,
    SUM_COUNT = SUM_SHARE + CAPTIONER_EXPERTS_MAX
};

struct trainer {
    struct ops *ops;
    struct captioner *captioner;
    struct trainer_options options;
    const struct captioner_params *params;
    struct trainer_state state;

    float *moment1, *moment2, *ema; /* device (count); ema NULL when off */
    /* reproducible: fixed-point sums (count) and, behind them, the number of bad router gradients,
     * so that one all-reduce carries both; elsewhere NULL. */
    int64_t *fixed;
    int64_t *bad;                 /* device (1): gradients that do not fit the fixed-point range */
    double *norm;                 /* device (2): ops grad_norm */
    int64_t *sums;                /* device (SUM_COUNT) */
    struct trainer_state *shared; /* device: the state on its way to other ranks */

    /* the step under way */
    int64_t groups_done, reduced; /* gradients [0, reduced) are with the communicator */
    struct comm *reducing;        /* communicator of the last group's backward, NULL: not yet */
    double compute_s;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int trainer_open(struct ops *ops, struct captioner *captioner,
                 const struct trainer_options *options, struct trainer **ret, struct bl_error *err)
{
    bl_auto(trainer) struct trainer *t = calloc(1, sizeof *t);
    if (!t)
        return bl_fail(err, BL_ENOMEM, "no memory for the trainer");
    t->ops = ops;
    t->captioner = captioner;
    t->options = *options;
    t->params = captioner_params(captioner);
    size_t bytes = (size_t)t->params->count * sizeof(float);
    BL_TRY(ops->alloc(ops, bytes, (void **)&t->moment1, err));
    BL_TRY(ops->alloc(ops, bytes, (void **)&t->moment2, err));
    if (options->ema > 0)
        BL_TRY(ops->alloc(ops, bytes, (void **)&t->ema, err));
    if (options->reproducible)
        BL_TRY(ops->alloc(ops, 2 * bytes + sizeof(int64_t), (void **)&t->fixed, err));
    BL_TRY(ops->alloc(ops, sizeof *t->bad, (void **)&t->bad, err));
    BL_TRY(ops->alloc(ops, 2 * sizeof *t->norm, (void **)&t->norm, err));
    BL_TRY(ops->alloc(ops, SUM_COUNT * sizeof *t->sums, (void **)&t->sums, err));
    BL_TRY(ops->alloc(ops, sizeof *t->shared, (void **)&t->shared, err));
    *ret = bl_take(&t);
    return 0;
}

void trainer_free(struct trainer **trainer)
{
    struct trainer *t = *trainer;
    if (!t)
        return;
    void *const device[] = {t->moment1, t->moment2, t->ema,  t->fixed,
                            t->bad,     t->norm,    t->sums, t->shared};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        t->ops->release(t->ops, device[i]);
    free(t);
    *trainer = NULL;
}

const struct trainer_state *trainer_state(const struct trainer *trainer)
{
    return &trainer->state;
}

int trainer_fresh(struct trainer *t, struct bl_error *err)
{
    size_t bytes = (size_t)t->params->count * sizeof(float);
    BL_TRY(captioner_init(t->captioner, t->options.seed, err));
    t->ops->zero(t->ops, t->moment1, bytes);
    t->ops->zero(t->ops, t->moment2, bytes);
    if (t->ema)
        t->ops->copy(t->ops, t->ema, t->params->values, bytes);
    t->state = (struct trainer_state){0};
    captioner_params_changed(t->captioner);
    return t->ops->sync(t->ops, err);
}

int trainer_start_from(struct trainer *t, const float *values, struct bl_error *err)
{
    size_t bytes = (size_t)t->params->count * sizeof(float);
    t->ops->copy_in(t->ops, t->params->values, values, bytes);
    if (t->ema)
        t->ops->copy(t->ops, t->ema, t->params->values, bytes);
    captioner_params_changed(t->captioner);
    return t->ops->sync(t->ops, err);
}

/* The replicated tensors, for whatever treats them alike; returns how many there are. */
static int replicated(const struct trainer *t, float *ret[4])
{
    int n = 0;
    ret[n++] = t->params->values;
    ret[n++] = t->moment1;
    ret[n++] = t->moment2;
    if (t->ema)
        ret[n++] = t->ema;
    return n;
}

int trainer_share(struct trainer *t, struct comm *comm, int root, struct bl_error *err)
{
    float *tensors[4];
    int n = replicated(t, tensors);
    for (int i = 0; i < n; i++)
        comm_broadcast(comm, tensors[i], (size_t)t->params->count * sizeof(float), root);
    t->ops->copy_in(t->ops, t->shared, &t->state, sizeof t->state);
    comm_broadcast(comm, t->shared, sizeof t->state, root);
    BL_TRY(comm_wait(comm, err));
    t->ops->copy_out(t->ops, &t->state, t->shared, sizeof t->state);
    captioner_params_changed(t->captioner);
    return t->ops->sync(t->ops, err);
}

int trainer_snapshot_make(const struct trainer *t, struct trainer_snapshot *ret,
                          struct bl_error *err)
{
    size_t count = (size_t)t->params->count;
    struct trainer_snapshot s = {.count = t->params->count,
                                 .values = calloc(count, sizeof(float)),
                                 .moment1 = calloc(count, sizeof(float)),
                                 .moment2 = calloc(count, sizeof(float)),
                                 .ema = t->ema ? calloc(count, sizeof(float)) : NULL};
    if (!s.values || !s.moment1 || !s.moment2 || (t->ema && !s.ema)) {
        trainer_snapshot_release(&s);
        return bl_fail(err, BL_ENOMEM, "no memory for a copy of %zu parameters and their moments",
                       count);
    }
    *ret = s;
    return 0;
}

int trainer_snapshot(struct trainer *t, struct trainer_snapshot *ret, struct bl_error *err)
{
    BL_TRY(trainer_snapshot_make(t, ret, err));
    float *device[4], *host[4] = {ret->values, ret->moment1, ret->moment2, ret->ema};
    int n = replicated(t, device);
    for (int i = 0; i < n; i++)
        t->ops->copy_out(t->ops, host[i], device[i], (size_t)t->params->count * sizeof(float));
    ret->state = t->state;
    return t->ops->sync(t->ops, err);
}

int trainer_restore(struct trainer *t, const struct trainer_snapshot *s, struct bl_error *err)
{
    BL_ASSERT_CMP(s->count, ==, t->params->count);
    float *device[4], *host[4] = {s->values, s->moment1, s->moment2, s->ema ? s->ema : s->values};
    int n = replicated(t, device);
    for (int i = 0; i < n; i++)
        t->ops->copy_in(t->ops, device[i], host[i], (size_t)t->params->count * sizeof(float));
    t->state = s->state;
    captioner_params_changed(t->captioner);
    return t->ops->sync(t->ops, err);
}

void trainer_snapshot_release(struct trainer_snapshot *s)
{
    free(s->values);
    free(s->moment1);
    free(s->moment2);
    free(s->ema);
    *s = (struct trainer_snapshot){0};
}

int trainer_digest(struct trainer *t, uint8_t ret[32], struct bl_error *err)
{
    enum { PIECE = 1 << 18 };
    bl_autofree float *piece = malloc(PIECE * sizeof *piece);
    if (!piece)
        return bl_fail(err, BL_ENOMEM, "no memory for a digest");
    crypto_generichash_state hash;
    crypto_generichash_init(&hash, NULL, 0, 32);
    crypto_generichash_update(&hash, (const uint8_t *)&t->state, sizeof t->state);
    float *tensors[4];
    int n = replicated(t, tensors);
    for (int i = 0; i < n; i++)
        for (int64_t at = 0; at < t->params->count; at += PIECE) {
            size_t bytes = (size_t)bl_min(PIECE, t->params->count - at) * sizeof(float);
            t->ops->copy_out(t->ops, piece, tensors[i] + at, bytes);
            crypto_generichash_update(&hash, (const uint8_t *)piece, bytes);
        }
    crypto_generichash_final(&hash, ret, 32);
    return t->ops->sync(t->ops, err);
}

/* -- a step -- */

int trainer_begin(struct trainer *t, struct bl_error *err)
{
    struct ops *ops = t->ops;
    size_t count = (size_t)t->params->count;
    ops->zero(ops, t->params->grads, count * sizeof(float));
    if (t->fixed)
        ops->zero(ops, t->fixed, (count + 1) * sizeof(int64_t));
    ops->zero(ops, t->bad, sizeof *t->bad);
    captioner_step_begin(t->captioner);
    t->groups_done = 0;
    t->reduced = 0;
    t->reducing = NULL;
    t->compute_s = 0;
    return ops->sync(ops, err);
}

/* Gives the communicator every whole bucket of [reduced, end), and the rest too when end is where
 * buckets end. Buckets are cut by the layout alone, so every rank begins the same ones in the same
 * order. */
static void reduce_until(struct trainer *t, struct comm *comm, int64_t end)
{
    int64_t router_first = t->params->router_first;
    while (t->reduced < end) {
        int64_t bucket_end = bl_min((t->reduced / BUCKET + 1) * BUCKET, router_first);
        if (bucket_end > end)
            return;
        int64_t count = bucket_end - t->reduced;
        if (t->fixed)
            comm_allreduce(comm, t->fixed + t->reduced, count, COMM_I64);
        else
            comm_allreduce(comm, t->params->grads + t->reduced, count, COMM_F32);
        t->reduced = bucket_end;
    }
}

/* Takes a range of the group's gradient over into the fixed-point sum and clears it for the next
 * group. */
static void take_fixed(struct trainer *t, int64_t first, int64_t count, int64_t *bad)
{
    struct ops *ops = t->ops;
    float *grads = t->params->grads + first;
    ops->fixed_add(ops, t->fixed + first, bad, grads, count, 0x1p26f / (float)t->options.groups);
    ops->zero(ops, grads, (size_t)count * sizeof(float));
}

static void grads_ready(void *context, int64_t first, int64_t count)
{
    struct trainer *t = context;
    if (t->fixed)
        take_fixed(t, first, count, t->bad);
    if (t->reducing)
        reduce_until(t, t->reducing, first + count);
}

int trainer_group(struct trainer *t, const struct micro_batch *mb, struct comm *comm, bool last,
                  struct bl_error *err)
{
    double start = now_s();
    t->reducing = last ? comm : NULL;
    struct captioner_pass pass = {.seed = t->options.seed,
                                  .step = (uint32_t)t->state.step,
                                  .dropout = true,
                                  .grads_ready = grads_ready,
                                  .ctx = t};
    BL_TRY(captioner_forward_backward(t->captioner, mb, &pass, err));
    t->groups_done++;
    t->compute_s += now_s() - start;
    return 0;
}

/* All ranks' sums of the step. */
static int reduce_sums(struct trainer *t, struct comm *comm, int64_t sums[SUM_COUNT],
                       double *wait_s, struct bl_error *err)
{
    struct captioner_sums own;
    BL_TRY(captioner_step_sums(t->captioner, &own, err));
    memset(sums, 0, SUM_COUNT * sizeof *sums);
    sums[SUM_TOKENS] = own.tokens;
    sums[SUM_IMAGES] = own.images;
    t->ops->copy_out(t->ops, &sums[SUM_BAD], t->bad, sizeof *sums);
    /* A sum that is not finite has no fixed-point form; the step is skipped everywhere, so its
     * value does not matter. */
    bool finite = isfinite(own.nll) && isfinite(own.entropy) && isfinite(own.lse2) &&
                  fabs(own.nll) < 0x1p37 && fabs(own.lse2) < 0x1p37;
    if (finite) {
        sums[SUM_NLL] = llrint(own.nll * SUM_SCALE);
        sums[SUM_ENTROPY] = llrint(own.entropy * SUM_SCALE);
        sums[SUM_LSE2] = llrint(own.lse2 * SUM_SCALE);
        memcpy(&sums[SUM_SHARE], own.share, sizeof own.share);
    } else {
        sums[SUM_BAD]++;
    }
    t->ops->copy_in(t->ops, t->sums, sums, SUM_COUNT * sizeof *sums);
    reduce_until(t, comm, t->params->router_first);
    comm_allreduce(comm, t->sums, SUM_COUNT, COMM_I64);
    double start = now_s();
    BL_TRY(comm_wait(comm, err));
    *wait_s += now_s() - start;
    t->ops->copy_out(t->ops, sums, t->sums, SUM_COUNT * sizeof *sums);
    return t->ops->sync(t->ops, err);
}

/* The router's gradient needs the whole global batch's shares, so it comes last and travels by
 * itself. */
static int reduce_router(struct trainer *t, struct comm *comm, const struct trainer_report *report,
                         double *wait_s, struct bl_error *err)
{
    int64_t first = t->params->router_first, count = t->params->count - first;
    struct captioner_router router = {.tokens = (double)report->tokens,
                                      .images = (double)report->images,
                                      .alpha = t->options.balance,
                                      .beta = t->options.router_z};
    memcpy(router.share, report->share, sizeof router.share);
    if (t->fixed) {
        for (int64_t grain = 0; grain < t->groups_done; grain++) {
            BL_TRY(captioner_router_backward(t->captioner, &router, grain, err));
            take_fixed(t, first, count, t->fixed + t->params->count);
        }
        comm_allreduce(comm, t->fixed + first, count + 1, COMM_I64);
    } else {
        BL_TRY(captioner_router_backward(t->captioner, &router, -1, err));
        comm_allreduce(comm, t->params->grads + first, count, COMM_F32);
    }
    double start = now_s();
    BL_TRY(comm_wait(comm, err));
    *wait_s += now_s() - start;
    return 0;
}

/* Gradient norm of the divided gradient; *bad when any element is not finite. */
static int measure_norm(struct trainer *t, double token_scale, double *ret_norm, bool *bad,
                        struct bl_error *err)
{
    struct ops *ops = t->ops;
    const struct captioner_params *p = t->params;
    double out[2];
    ops->zero(ops, t->norm, sizeof out);
    ops->grad_norm(ops, t->norm, p->grads, p->router_first, token_scale);
    ops->grad_norm(ops, t->norm, p->grads + p->router_first, p->count - p->router_first, 1);
    ops->copy_out(ops, out, t->norm, sizeof out);
    BL_TRY(ops->sync(ops, err));
    *ret_norm = sqrt(out[0]);
    *bad = out[1] > 0 || !isfinite(*ret_norm);
    return 0;
}

/* Decides on reduced quantities only, so every rank decides alike. */
static bool is_outlier(struct trainer *t, double norm)
{
    struct trainer_state *s = &t->state;
    double variance = s->norm_square - s->norm_mean * s->norm_mean;
    bool outlier = t->options.skip_outliers > 0 && s->norm_count >= 100 && variance > 0 &&
                   norm > s->norm_mean + t->options.skip_outliers * sqrt(variance);
    if (!outlier) {
        double keep = s->norm_count ? 0.99 : 0;
        s->norm_mean = keep * s->norm_mean + (1 - keep) * norm;
        s->norm_square = keep * s->norm_square + (1 - keep) * norm * norm;
        s->norm_count++;
    }
    return outlier;
}

static void update(struct trainer *t, const struct trainer_report *report)
{
    struct ops *ops = t->ops;
    const struct captioner_params *p = t->params;
    double factor = t->options.clip > 0 ? fmin(1, t->options.clip / (report->norm + 1e-6)) : 1;
    t->state.updates++;
    for (int64_t i = 0; i < p->tensors; i++) {
        const struct captioner_param *tensor = &p->at[i];
        bool decays = tensor->matrix || t->options.decay_norms;
        struct ops_adamw adamw = {.lr = (float)report->rate,
                                  .beta1 = t->options.beta1,
                                  .beta2 = t->options.beta2,
                                  .eps = t->options.eps,
                                  .weight_decay = decays ? t->options.weight_decay : 0,
                                  .t = t->state.updates};
        double scale = tensor->offset >= p->router_first ? factor : factor / (double)report->tokens;
        int64_t at = tensor->offset;
        ops->adamw(ops, p->values + at, t->moment1 + at, t->moment2 + at, p->grads + at,
                   tensor->count, scale, &adamw);
    }
    if (t->ema)
        ops->ema(ops, t->ema, p->values, p->count, t->options.ema);
    captioner_params_changed(t->captioner);
}

int trainer_apply(struct trainer *t, struct comm *comm, struct trainer_report *ret,
                  struct bl_error *err)
{
    struct ops *ops = t->ops;
    int64_t sums[SUM_COUNT];
    int64_t updates_before = t->state.updates;
    double wait_s = 0, start = now_s();
    BL_TRY(reduce_sums(t, comm, sums, &wait_s, err));
    struct trainer_report r = {.step = t->state.step,
                               .nll = (double)sums[SUM_NLL] / SUM_SCALE,
                               .tokens = sums[SUM_TOKENS],
                               .images = sums[SUM_IMAGES],
                               .rate = schedule_rate(&t->options.schedule, t->state.step)};
    bool bad = sums[SUM_BAD] > 0 || r.tokens == 0 || r.images == 0;
    bool moe = t->params->router_first < t->params->count;
    if (moe && !bad) {
        double squares = 0;
        for (int64_t e = 0; e < t->options.experts; e++) {
            r.share[e] = (double)sums[SUM_SHARE + e] / OPS_FIXED_SCALE / (double)r.images;
            squares += r.share[e] * r.share[e];
        }
        r.entropy = (double)sums[SUM_ENTROPY] / SUM_SCALE / (double)r.images;
        r.balance_loss = t->options.balance * (double)t->options.experts * squares;
        r.router_z_loss =
            t->options.router_z * (double)sums[SUM_LSE2] / SUM_SCALE / (double)r.images;
        BL_TRY(reduce_router(t, comm, &r, &wait_s, err));
    }
    if (!bad && t->fixed) {
        int64_t router_bad;
        ops->fixed_get(ops, t->params->grads, t->fixed, t->params->count);
        ops->copy_out(ops, &router_bad, t->fixed + t->params->count, sizeof router_bad);
        bad = router_bad > 0;
    }
    if (!bad)
        BL_TRY(measure_norm(t, 1 / (double)r.tokens, &r.norm, &bad, err));
    if (bad)
        t->state.skipped_bad++;
    else if (is_outlier(t, r.norm))
        t->state.skipped_outliers++;
    else
        update(t, &r);
    r.skipped = t->state.updates == updates_before;
    t->state.step++;
    BL_TRY(ops->sync(ops, err));
    r.compute_s = t->compute_s + (now_s() - start - wait_s);
    r.reduce_wait_s = wait_s;
    *ret = r;
    return 0;
}
