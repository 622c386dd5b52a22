/* worker/trainer.c - the training step. See trainer.h for the invariants it keeps. */
#include "worker/trainer.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/hash.h"
#include "common/progress.h"
#include "common/size.h"

/* Elements of one all-reduce, 32 MB in f32 and 64 MB in int64: long enough that hundreds of ranks use the wire well, short
 * enough to start while backward still runs, and for the last one, which nothing hides. */
#define BUCKET (8 << 20)

_Static_assert((int64_t)OPS_FIXED_SCALE == (int64_t)COMM_FIXED_SCALE, "one fixed point");

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
    SUM_SOURCES = SUM_SHARE + CAPTIONER_EXPERTS_MAX, /* nll, tokens, images of each */
    SUM_COUNT = SUM_SOURCES + 3 * CAPTIONER_SOURCES_MAX
};

struct trainer {
    struct ops *ops;
    struct captioner *captioner;
    struct trainer_options options;
    const struct captioner_params *params;
    struct trainer_state state;

    const struct optimizer *optimizer;
    int tensor_count;
    struct trainer_tensor tensors[TRAINER_TENSORS_MAX]; /* weights, optimizer's, average */
    dev_f32 *ema;                                       /* the last of them; NULL when off */
    float *host[TRAINER_TENSORS_MAX]; /* copies of a snapshot; NULL: not made yet, or no need */
    bool touched;                     /* since they were allocated, which leaves zeros */
    /* reproducible: fixed-point sums (count) and, behind them, the number of bad router gradients,
     * so that one all-reduce carries both; elsewhere NULL. */
    dev_i64 *fixed;
    dev_i64 *bad;     /* (1): gradients that do not fit the fixed-point range */
    dev_f64 *norm;    /* (2): ops grad_norm */
    dev_i64 *sums;    /* (SUM_COUNT) */
    dev_void *shared; /* a struct trainer_state: the state on its way to other ranks */

    /* the step under way */
    int64_t groups_done, reduced; /* gradients [0, reduced) are with the communicator */
    struct comm *reducing; /* communicator of the last micro-batch's backward, NULL: not yet */
    double compute_s;
};

static int add_tensor(struct trainer *t, struct state_tensor is, struct bl_error *err)
{
    struct trainer_tensor *tensor = &t->tensors[t->tensor_count];
    dev_void *data;
    BL_TRY(ops_alloc_zero(t->ops, (size_t)t->params->count * sizeof(float), &data, err));
    *tensor = (struct trainer_tensor){is, data};
    t->tensor_count++;
    return 0;
}

static int open_state(struct trainer *t, struct bl_error *err)
{
    t->tensors[t->tensor_count++] = (struct trainer_tensor){{"", STATE_WEIGHTS}, t->params->values};
    for (int i = 0; i < t->optimizer->tensor_count; i++)
        BL_TRY(add_tensor(t, t->optimizer->tensors[i], err));
    if (t->options.ema > 0) {
        BL_TRY(add_tensor(t, (struct state_tensor){"ema", STATE_WEIGHTS}, err));
        t->ema = t->tensors[t->tensor_count - 1].data;
    }
    return 0;
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
    t->optimizer = optimizers[options->optimizer];
    BL_TRY(open_state(t, err));
    if (options->reproducible) {
        size_t bytes = (size_t)(t->params->count + 1) * sizeof(int64_t);
        BL_TRY(ops->alloc(ops, bytes, (dev_void **)&t->fixed, err));
    }
    BL_TRY(ops->alloc(ops, sizeof *t->bad, (dev_void **)&t->bad, err));
    BL_TRY(ops->alloc(ops, 2 * sizeof *t->norm, (dev_void **)&t->norm, err));
    BL_TRY(ops->alloc(ops, SUM_COUNT * sizeof *t->sums, (dev_void **)&t->sums, err));
    BL_TRY(ops->alloc(ops, sizeof t->state, (dev_void **)&t->shared, err));
    *ret = bl_take(&t);
    return 0;
}

void trainer_free(struct trainer **trainer)
{
    struct trainer *t = *trainer;
    if (!t)
        return;
    for (int i = 1; i < t->tensor_count; i++) /* the first is the captioner's */
        t->ops->release(t->ops, t->tensors[i].data);
    for (int i = 0; i < t->tensor_count; i++)
        free(t->host[i]);
    dev_void *const device[] = {t->fixed, t->bad, t->norm, t->sums, t->shared};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        t->ops->release(t->ops, device[i]);
    free(t);
    *trainer = NULL;
}

const struct trainer_tensor *trainer_tensors(struct trainer *trainer, int *ret_count)
{
    trainer->touched = true;
    *ret_count = trainer->tensor_count;
    return trainer->tensors;
}

const struct trainer_state *trainer_state(const struct trainer *trainer)
{
    return &trainer->state;
}

void trainer_reset(struct trainer *t, int tensor)
{
    size_t bytes = (size_t)t->params->count * sizeof(float);
    dev_f32 *data = t->tensors[tensor].data;
    BL_ASSERT(tensor > 0 && tensor < t->tensor_count);
    if (t->tensors[tensor].is.initial == STATE_ZERO && t->touched)
        t->ops->zero(t->ops, data, bytes);
    else if (t->tensors[tensor].is.initial == STATE_WEIGHTS)
        t->ops->copy(t->ops, data, t->params->values, bytes);
    bl_progress_add(1);
}

int trainer_fresh(struct trainer *t, struct bl_error *err)
{
    BL_TRY(captioner_init(t->captioner, t->options.seed, err));
    return trainer_restart(t, err);
}

int trainer_restart(struct trainer *t, struct bl_error *err)
{
    static const struct trainer_state first = {0};
    for (int i = 1; i < t->tensor_count; i++)
        trainer_reset(t, i);
    return trainer_resume(t, &first, err);
}

int trainer_resume(struct trainer *t, const struct trainer_state *state, struct bl_error *err)
{
    t->state = *state;
    t->touched = true;
    captioner_params_changed(t->captioner);
    return t->ops->sync(t->ops, err);
}

int trainer_share(struct trainer *t, struct comm *comm, int root, struct bl_error *err)
{
    t->touched = true;
    for (int i = 0; i < t->tensor_count; i++)
        comm_broadcast(comm, t->tensors[i].data, (size_t)t->params->count * sizeof(float), root);
    t->ops->copy_in(t->ops, t->shared, &t->state, sizeof t->state);
    comm_broadcast(comm, t->shared, sizeof t->state, root);
    BL_TRY(comm_wait(comm, err));
    t->ops->copy_out(t->ops, &t->state, t->shared, sizeof t->state);
    captioner_params_changed(t->captioner);
    return t->ops->sync(t->ops, err);
}

/* Before the first update these are zero on every rank, so they need not be looked at. */
static bool is_zero(const struct trainer *t, int tensor)
{
    return t->tensors[tensor].is.initial == STATE_ZERO && t->state.updates == 0;
}

static int copy_to_host(struct trainer *t, int tensor, struct bl_error *err)
{
    size_t bytes = (size_t)t->params->count * sizeof(float);
    if (!t->host[tensor])
        t->host[tensor] = malloc(bytes);
    if (!t->host[tensor])
        return bl_fail(err, BL_ENOMEM, "no memory for a checkpoint's copy of %.1f GB",
                       (double)bytes / 1e9);
    t->ops->copy_out(t->ops, t->host[tensor], t->tensors[tensor].data, bytes);
    return 0;
}

int trainer_snapshot(struct trainer *t, struct trainer_snapshot *ret, struct bl_error *err)
{
    *ret = (struct trainer_snapshot){
        .state = t->state, .copied = t->ops->memory != NULL, .tensor_count = t->tensor_count};
    for (int i = 0; i < t->tensor_count; i++) {
        ret->tensors[i].is = t->tensors[i].is;
        if (is_zero(t, i))
            continue;
        if (ret->copied)
            BL_TRY(copy_to_host(t, i, err));
        /* without memory of its own a device's is the process's */
        ret->tensors[i].data = ret->copied ? t->host[i] : (const float *)t->tensors[i].data;
    }
    return t->ops->sync(t->ops, err);
}

/* -- the digest: SHA-256 over the counters and the SHA-256 of every piece of every tensor -- */

enum { DIGEST_PIECE = 1 << 20, DIGEST_ROUND = 16 }; /* elements; pieces hashed in parallel */

/* Adds the hashes of up to DIGEST_ROUND pieces of data (count), which lie in host memory. */
static void digest_round(struct bl_sha256 *hash, const float *data, int64_t count, int threads)
{
    uint8_t hashes[DIGEST_ROUND][32];
    int pieces = (int)bl_ceil_div(count, DIGEST_PIECE);
#pragma omp parallel for num_threads(threads)
    for (int i = 0; i < pieces; i++) {
        int64_t first = (int64_t)i * DIGEST_PIECE;
        bl_sha256(data + first, (size_t)bl_min(DIGEST_PIECE, count - first) * sizeof *data,
                  hashes[i]);
    }
    bl_sha256_add(hash, hashes, (size_t)pieces * sizeof *hashes);
    bl_progress_add((uint64_t)pieces);
}

int trainer_digest(struct trainer *t, uint8_t ret[32], struct bl_error *err)
{
    enum { ROUND = DIGEST_PIECE * DIGEST_ROUND };
    int threads = t->options.threads ? t->options.threads : omp_get_num_procs();
    bl_autosha256 hash = {0};
    bl_autofree float *host = malloc((size_t)bl_min(ROUND, t->params->count) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for a digest");
    bl_sha256_begin(&hash);
    bl_sha256_add(&hash, &t->state, sizeof t->state);
    for (int i = 0; i < t->tensor_count; i++) {
        if (is_zero(t, i))
            continue;
        for (int64_t at = 0; at < t->params->count; at += ROUND) {
            int64_t count = bl_min(ROUND, t->params->count - at);
            t->ops->copy_out(t->ops, host, t->tensors[i].data + at, (size_t)count * sizeof *host);
            digest_round(&hash, host, count, threads);
        }
    }
    bl_sha256_end(&hash, ret);
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
        dev_f32 *grads = t->params->grads + t->reduced;
        if (!t->fixed)
            comm_allreduce(comm, grads, count, COMM_F32);
        else if (!comm_allreduce_fixed(comm, grads, t->fixed + t->reduced, count))
            t->ops->fixed_get(t->ops, grads, t->fixed + t->reduced, count);
        t->reduced = bucket_end;
    }
}

/* Takes a range of the micro-batch's gradient over into the fixed-point sum and clears it for the
 * next one. */
static void take_fixed(struct trainer *t, int64_t first, int64_t count, dev_i64 *bad)
{
    struct ops *ops = t->ops;
    dev_f32 *grads = t->params->grads + first;
    ops->fixed_add(ops, t->fixed + first, bad, grads, count,
                   0x1p26f / (float)t->options.micro_batches);
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

int trainer_micro_batch(struct trainer *t, const struct micro_batch *mb, struct comm *comm,
                        bool last, struct bl_error *err)
{
    double start = bl_now_s();
    t->reducing = last ? comm : NULL;
    struct captioner_pass pass = {.seed = t->options.seed,
                                  .step = (uint32_t)t->state.step,
                                  .dropout = true,
                                  .grads_ready = grads_ready,
                                  .ctx = t};
    BL_TRY(captioner_forward_backward(t->captioner, mb, &pass, err));
    t->groups_done++;
    bl_progress_add(1);
    t->compute_s += bl_now_s() - start;
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
        for (int s = 0; s < CAPTIONER_SOURCES_MAX; s++) {
            int64_t *source = &sums[SUM_SOURCES + 3 * s];
            source[0] = llrint(own.source[s].nll * SUM_SCALE);
            source[1] = own.source[s].tokens;
            source[2] = own.source[s].images;
        }
    } else {
        sums[SUM_BAD]++;
    }
    t->ops->copy_in(t->ops, t->sums, sums, SUM_COUNT * sizeof *sums);
    reduce_until(t, comm, t->params->router_first);
    comm_allreduce(comm, t->sums, SUM_COUNT, COMM_I64);
    double start = bl_now_s();
    BL_TRY(comm_wait(comm, err));
    *wait_s += bl_now_s() - start;
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
    double start = bl_now_s();
    BL_TRY(comm_wait(comm, err));
    *wait_s += bl_now_s() - start;
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

static struct optimizer_update update_of(const struct trainer *t,
                                         const struct trainer_report *report,
                                         const struct captioner_param *param)
{
    double factor = t->options.clip > 0 ? fmin(1, t->options.clip / (report->norm + 1e-6)) : 1;
    bool decays = param->matrix || t->options.decay_norms;
    bool router = param->offset >= t->params->router_first;
    return (struct optimizer_update){.scale = router ? factor : factor / (double)report->tokens,
                                     .rate = report->rate,
                                     .beta1 = t->options.beta1,
                                     .beta2 = t->options.beta2,
                                     .eps = t->options.eps,
                                     .weight_decay = decays ? t->options.weight_decay : 0,
                                     .t = t->state.updates};
}

static bool is_same_update(const struct optimizer_update *a, const struct optimizer_update *b)
{
    return a->scale == b->scale && a->weight_decay == b->weight_decay;
}

/* Neighbours of equal settings are updated as one, with the gaps between them: all tensors, or all before the router and the
 * router's, unless norms are spared from decay. */
static void update(struct trainer *t, const struct trainer_report *report)
{
    struct ops *ops = t->ops;
    const struct captioner_params *p = t->params;
    t->state.updates++;
    for (int64_t i = 0, end; i < p->tensors; i = end) {
        const struct optimizer_update u = update_of(t, report, &p->at[i]);
        for (end = i + 1; end < p->tensors; end++) {
            const struct optimizer_update next = update_of(t, report, &p->at[end]);
            if (!is_same_update(&u, &next))
                break;
        }
        const int64_t first = p->at[i].offset,
                      count = (end < p->tensors ? p->at[end].offset : p->count) - first;
        dev_f32 *kept[OPTIMIZER_TENSORS_MAX];
        for (int k = 0; k < t->optimizer->tensor_count; k++)
            kept[k] = t->tensors[1 + k].data + first;
        t->optimizer->update(ops, p->values + first, kept, p->grads + first, count, &u);
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
    double wait_s = 0, start = bl_now_s();
    BL_TRY(reduce_sums(t, comm, sums, &wait_s, err));
    struct trainer_report r = {.step = t->state.step,
                               .nll = (double)sums[SUM_NLL] / SUM_SCALE,
                               .tokens = sums[SUM_TOKENS],
                               .images = sums[SUM_IMAGES],
                               .rate = schedule_rate(&t->options.schedule, t->state.step)};
    for (int s = 0; s < CAPTIONER_SOURCES_MAX; s++) {
        const int64_t *source = &sums[SUM_SOURCES + 3 * s];
        r.source[s] =
            (struct captioner_source_sums){(double)source[0] / SUM_SCALE, source[1], source[2]};
    }
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
        const int64_t router = t->params->router_first; /* what is before it has been converted */
        ops->fixed_get(ops, t->params->grads + router, t->fixed + router,
                       t->params->count - router);
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
    r.compute_s = t->compute_s + (bl_now_s() - start - wait_s);
    r.reduce_wait_s = wait_s;
    *ret = r;
    return 0;
}
