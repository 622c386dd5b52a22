/* worker/model/generate.c - captions: prompt and image once through the LLM into a KV cache, then token by token.
 *
 * The cache has one slot of rows for each running text. The device says which tokens are likeliest; sampling draws from all of
 * them, so there the logits come to the host. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/random.h"
#include "common/size.h"
#include "worker/model/captioner_private.h"

/* -- decoder: running texts in slots of a KV cache -- */

struct decoder {
    struct captioner *c;
    int64_t slots, rows, width; /* texts, rows of each, elements of a row */
    act **layers,
        **spare;     /* host lists of device buffers (slots*rows, width); spare: for reordering */
    int32_t *length; /* (slots) host: rows filled */
    /* Of the n texts last run, host: either the k likeliest tokens of each, likelier first, and log sum exp of its logits; or,
     * where k is 0, all logits. */
    int64_t k;
    void *block;        /* of these three */
    double *log_sum;    /* (n) */
    float *likeliest;   /* (n, k) logits */
    int32_t *candidate; /* (n, k) ids */
    float *logits;      /* (n, V) */
};

static void decoder_release(struct decoder *decoder)
{
    free(decoder->layers);
    free(decoder->spare);
    free(decoder->length);
    free(decoder->block);
    free(decoder->logits);
}

/* Bytes of the k likeliest of n texts. */
static size_t block_bytes(int64_t n, int64_t k)
{
    return (size_t)n * (sizeof(double) + (size_t)k * (sizeof(float) + sizeof(int32_t)));
}

static int take_cache(struct decoder *decoder, act ***ret, struct bl_error *err)
{
    int64_t layers = decoder->c->llm_config.layers;
    bl_autofree act **list = calloc((size_t)layers, sizeof *list);
    if (!list)
        return bl_fail(err, BL_ENOMEM, "no memory for a list of %lld layers", (long long)layers);
    for (int64_t i = 0; i < layers; i++)
        BL_TRY(arena_act(&decoder->c->arena, decoder->slots * decoder->rows * decoder->width,
                         &list[i], err));
    *ret = bl_take(&list);
    return 0;
}

static int decoder_init(struct decoder *decoder, struct captioner *c, int64_t slots, int64_t rows,
                        int64_t k, bool reorders, struct bl_error *err)
{
    *decoder = (struct decoder){
        .c = c, .slots = slots, .rows = rows, .width = llm_cache_width(c->llm), .k = k};
    decoder->length = calloc((size_t)slots + 1, sizeof *decoder->length);
    decoder->block = malloc(block_bytes(slots, k));
    if (k == 0)
        decoder->logits =
            malloc((size_t)(slots * c->llm_config.vocabulary) * sizeof *decoder->logits);
    if (!decoder->length || !decoder->block || (k == 0 && !decoder->logits))
        return bl_fail(err, BL_ENOMEM, "no memory for %lld texts", (long long)slots);
    BL_TRY(take_cache(decoder, &decoder->layers, err));
    return reorders ? take_cache(decoder, &decoder->spare, err) : 0;
}

/* What comes of the last rows of n texts, on the device. */
struct outputs {
    act *h, *logits;  /* (n, d), (n, V) */
    dev_void *wanted; /* what the decoder has of them on the host, laid out as there */
};

static size_t wanted_bytes(const struct decoder *decoder, int64_t n)
{
    return decoder->k ? block_bytes(n, decoder->k)
                      : (size_t)(n * decoder->c->llm_config.vocabulary) * sizeof(float);
}

static int take_outputs(const struct decoder *decoder, int64_t n, struct outputs *ret,
                        struct bl_error *err)
{
    struct captioner *c = decoder->c;
    BL_TRY(arena_act(&c->arena, n * c->llm_config.hidden, &ret->h, err));
    BL_TRY(arena_act(&c->arena, n * c->llm_config.vocabulary, &ret->logits, err));
    return arena_bytes(&c->arena, wanted_bytes(decoder, n), &ret->wanted, err);
}

/* Waits for the device. */
static int fetch(struct decoder *decoder, const struct outputs *out, int64_t n,
                 struct bl_error *err)
{
    struct ops *ops = decoder->c->ops;
    ops->copy_out(ops, decoder->k ? decoder->block : decoder->logits, out->wanted,
                  wanted_bytes(decoder, n));
    decoder->log_sum = decoder->block;
    decoder->likeliest = (float *)(decoder->log_sum + n);
    decoder->candidate = (int32_t *)(decoder->likeliest + n * decoder->k);
    return ops->sync(ops, err);
}

/* -- places of rows in the cache -- */

enum { PLACES = 4 }; /* arrays of them */

/* Numbers in them, for R more rows of n texts. */
static int64_t places_count(const struct decoder *decoder, int64_t n, int64_t R)
{
    return 2 * n + R + R * llm_cache_pieces(decoder->c->llm);
}

/* Gives the texts in `slot` their next rows, added (n) each, R in all: fills *cache but for its addresses, and the arrays by
 * whose upload it gets these. host: places_count() numbers, theirs until then. */
static void take_places(struct decoder *decoder, int32_t *host, const int32_t *slot,
                        const int32_t *added, int64_t n, int64_t R, struct llm_cache *cache,
                        struct arena_array arrays[PLACES])
{
    const struct llm *llm = decoder->c->llm;
    int32_t *start = host, *length = start + n, *write = length + n, *pieces = write + R;
    int64_t row = 0;
    for (int64_t i = 0; i < n; i++) {
        start[i] = (int32_t)(slot[i] * decoder->rows);
        for (int32_t j = 0; j < added[i]; j++)
            write[row++] = start[i] + decoder->length[slot[i]]++;
        length[i] = decoder->length[slot[i]];
        BL_ASSERT_CMP(length[i], <=, decoder->rows);
    }
    llm_find_pieces(llm, pieces, R);
    *cache = (struct llm_cache){.layers = decoder->layers};
    sequences_arrays(n, start, length, &cache->keys, arrays);
    arrays[2] = (struct arena_array){write, R, &cache->write};
    arrays[3] = (struct arena_array){pieces, R * llm_cache_pieces(llm), &cache->pieces};
}

/* -- running -- */

/* Runs x (R, d), the next rows of the texts in the cache. */
static int run(const struct decoder *decoder, act *x, const struct llm_rows *rows,
               const struct llm_cache *cache, const struct outputs *out, struct bl_error *err)
{
    struct captioner *c = decoder->c;
    struct ops *ops = c->ops;
    const int64_t n = rows->sequences.S, V = c->llm_config.vocabulary, k = decoder->k;
    BL_TRY(llm_forward(c->llm, &c->arena, out->h, x, rows, cache, SAVE_NOTHING, err));
    BL_TRY(llm_logits(c->llm, &c->arena, out->logits, out->h, n, err));
    dev_f64 *log_sum = out->wanted;
    dev_f32 *likeliest = (dev_f32 *)(log_sum + n);
    if (k > 0)
        ops->top_k(ops, log_sum, likeliest, (dev_i32 *)(likeliest + n * k), out->logits, n, V, k);
    else
        ops->act_to_f32(ops, out->wanted, out->logits, n * V);
    return 0;
}

/* Images and prompts into slots 0, stride, 2 stride, … */
static int decoder_prompt(struct decoder *decoder, const struct layout *layout, const act *y,
                          int64_t stride, struct bl_error *err)
{
    struct captioner *c = decoder->c;
    struct arena_mark mark = arena_mark(&c->arena);
    const int64_t n = layout->S, R = layout->rows.R;
    bl_autofree int32_t *slot = malloc((size_t)(n + places_count(decoder, n, R)) * sizeof *slot);
    if (!slot)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld texts", (long long)n);
    for (int64_t s = 0; s < n; s++)
        slot[s] = (int32_t)(s * stride);
    struct llm_cache cache;
    struct arena_array arrays[PLACES];
    struct outputs out;
    take_places(decoder, slot + n, slot, layout->lengths, n, R, &cache, arrays);
    act *x;
    BL_TRY(arena_i32s_from(&c->arena, arrays, PLACES, err));
    BL_TRY(arena_act(&c->arena, R * c->llm_config.hidden, &x, err));
    BL_TRY(captioner_inputs(c, x, layout, y, err));
    BL_TRY(take_outputs(decoder, n, &out, err));
    BL_TRY(run(decoder, x, &layout->rows, &cache, &out, err));
    BL_TRY(fetch(decoder, &out, n, err));
    arena_release(&c->arena, mark);
    return 0;
}

/* One more token for each of n texts: all that its operations are given. */
struct token {
    const struct decoder *decoder;
    struct llm_rows rows;
    struct llm_cache cache;
    const dev_i32 *ids;
    act *x;
    struct outputs out;
};

static int queue_token(void *context, struct bl_error *err)
{
    const struct token *token = context;
    llm_embed(token->decoder->c->llm, token->x, token->ids, token->rows.R);
    return run(token->decoder, token->x, &token->rows, &token->cache, &token->out, err);
}

/* Captions come token by token, with small operations: what differs from one token to the next is in arrays, so that one
 * recording serves all tokens of n texts. Its memory is taken in one order, so that the first addresses decide all. */
static int decoder_token(struct decoder *decoder, const int32_t *slot, const int32_t *ids,
                         int64_t n, struct bl_error *err)
{
    enum { OWN = 4 };
    struct captioner *c = decoder->c;
    struct arena_mark mark = arena_mark(&c->arena);
    bl_autofree int32_t *host =
        malloc((size_t)(3 * n + places_count(decoder, n, n)) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld texts", (long long)n);
    int32_t *position = host, *row = position + n, *one = row + n;
    for (int64_t i = 0; i < n; i++) {
        position[i] = decoder->length[slot[i]];
        row[i] = (int32_t)i;
        one[i] = 1;
    }
    struct token token = {.decoder = decoder, .rows = {.R = n, .kept = n}};
    struct arena_array arrays[OWN + PLACES];
    sequences_arrays(n, row, one, &token.rows.sequences, arrays);
    arrays[2] = (struct arena_array){position, n, &token.rows.position};
    arrays[3] = (struct arena_array){ids, n, &token.ids};
    take_places(decoder, one + n, slot, one, n, n, &token.cache, arrays + OWN);
    if (c->ops->record) /* nor may the longest text decide anything */
        token.cache.keys.len_max = decoder->rows;
    BL_TRY(arena_i32s_from(&c->arena, arrays, OWN + PLACES, err));
    token.rows.keep = token.rows.sequences.start; /* a row each */
    BL_TRY(arena_act(&c->arena, n * c->llm_config.hidden, &token.x, err));
    BL_TRY(take_outputs(decoder, n, &token.out, err));
    const struct recorder_key key = {{n, decoder->k, decoder->slots, decoder->rows},
                                     {decoder->layers[0], token.rows.keep, token.x}};
    BL_TRY(recorder_run(&c->recorder, &key, queue_token, &token, err));
    BL_TRY(fetch(decoder, &token.out, n, err));
    arena_release(&c->arena, mark);
    return 0;
}

/* Slot s continues from what slot parent[s] holds. */
static int decoder_reorder(struct decoder *decoder, const int32_t *parent, struct bl_error *err)
{
    struct captioner *c = decoder->c;
    struct arena_mark mark = arena_mark(&c->arena);
    const dev_i32 *index;
    bl_autofree int32_t *length = malloc((size_t)(decoder->slots + 1) * sizeof *length);
    if (!length)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld texts", (long long)decoder->slots);
    BL_TRY(arena_i32_from(&c->arena, parent, decoder->slots, &index, err));
    for (int64_t i = 0; i < c->llm_config.layers; i++)
        c->ops->gather_rows(c->ops, decoder->spare[i], decoder->layers[i], index, decoder->slots,
                            decoder->rows * decoder->width);
    act **layers = decoder->layers;
    decoder->layers = decoder->spare;
    decoder->spare = layers;
    for (int64_t s = 0; s < decoder->slots; s++)
        length[s] = decoder->length[parent[s]];
    memcpy(decoder->length, length, (size_t)decoder->slots * sizeof *length);
    arena_release(&c->arena, mark);
    return 0;
}

/* -- choosing -- */

static bool ends(const struct captioner_generation *options, int32_t id)
{
    for (int32_t i = 0; i < options->eos_count; i++)
        if (options->eos[i] == id)
            return true;
    return false;
}

/* Tokens of a text at most. */
static int32_t longest(const struct captioner_generation *options)
{
    return options->max_trace + options->max_new;
}

/* Where the caption begins behind a trace; -1: the trace has not ended. */
static int32_t find_caption(const struct captioner_generation *options, const int32_t *ids,
                            int32_t count)
{
    for (int32_t i = 0; i + options->close_count <= count; i++)
        if (!memcmp(ids + i, options->close, (size_t)options->close_count * sizeof *ids))
            return i + options->close_count;
    return -1;
}

/* Whether a text has all the tokens that it may have. */
static bool is_full(const struct captioner_generation *options, const int32_t *ids, int32_t count)
{
    if (!options->max_trace)
        return count == options->max_new;
    int32_t caption = find_caption(options, ids, count);
    return caption < 0 ? count == options->max_trace : count - caption == options->max_new;
}

/* log sum exp(logits / temperature) */
static double log_sum(const float *logits, int64_t V, double temperature)
{
    float greatest = logits[0];
    for (int64_t v = 1; v < V; v++)
        greatest = logits[v] > greatest ? logits[v] : greatest;
    double max = (double)greatest, sum = 0;
    for (int64_t v = 0; v < V; v++)
        sum += exp(((double)logits[v] - max) / temperature);
    return max / temperature + log(sum);
}

struct candidate {
    float logit;
    int32_t id;
};

/* Of equals the one of the lower id, so that the order is the same everywhere. */
static bool is_likelier(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

/* Makes a heap, whose first is the likeliest, of what is one but for its place `at`. */
static void sift(struct candidate *heap, int64_t count, int64_t at)
{
    const struct candidate moved = heap[at];
    for (int64_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && is_likelier(&heap[child + 1], &heap[child]))
            child++;
        if (!is_likelier(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* Moves the likeliest to the heap's end, which is then one shorter. */
static struct candidate pop_likeliest(struct candidate *heap, int64_t count)
{
    const struct candidate best = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = best;
    sift(heap, count - 1, 0);
    return best;
}

/* Draws from softmax(logits / temperature), cut to the likeliest tokens whose mass before them is below top_p
 * (Holtzman et al., "The curious case of neural text degeneration", 2020). u in [0, 1). scratch (V): a heap, since few tokens
 * of a vocabulary are before the cut. */
static int32_t sample(const float *logits, int64_t V, const struct captioner_generation *options,
                      double u, struct candidate *scratch)
{
    double temperature = (double)options->temperature, norm = log_sum(logits, V, temperature),
           mass = 0;
    int64_t count = 0;
    for (int64_t v = 0; v < V; v++)
        scratch[v] = (struct candidate){logits[v], (int32_t)v};
    for (int64_t v = V / 2 - 1; v >= 0; v--)
        sift(scratch, V, v);
    while (count < V && (count == 0 || mass < (double)options->top_p))
        mass += exp((double)pop_likeliest(scratch, V - count++).logit / temperature - norm);
    double left = u * mass;
    for (int64_t i = 1; i < count; i++) { /* the i-th likeliest is the i-th from the end */
        left -= exp((double)scratch[V - i].logit / temperature - norm);
        if (left < 0)
            return scratch[V - i].id;
    }
    return scratch[V - count].id;
}

/* -- one text an image: greedy or sampling -- */

/* The next token of the i-th text last run, whose slot's position in the global batch is `position`. Adds its nll. */
static int32_t next_token(const struct decoder *decoder, const struct captioner_generation *options,
                          int64_t i, int32_t position, int32_t index, struct candidate *scratch,
                          float *nll)
{
    if (decoder->k) {
        *nll += (float)(decoder->log_sum[i] - (double)decoder->likeliest[i]);
        return decoder->candidate[i];
    }
    const int64_t V = decoder->c->llm_config.vocabulary;
    const float *logits = decoder->logits + i * V;
    uint32_t words[4];
    bl_draw(options->seed, BL_RANDOM_SAMPLING, (uint64_t)position, (uint64_t)index, words);
    int32_t id = sample(logits, V, options, (double)bl_unit_f32(words[0]), scratch);
    *nll += (float)(log_sum(logits, V, 1) - (double)logits[id]);
    return id;
}

static int generate_single(struct decoder *decoder, const struct micro_batch *mb,
                           const struct captioner_generation *options,
                           struct captioner_caption *captions, struct bl_error *err)
{
    int64_t V = decoder->c->llm_config.vocabulary, live = mb->B;
    bool sampling = decoder->k == 0;
    bl_autofree struct candidate *scratch = sampling ? malloc((size_t)V * sizeof *scratch) : NULL;
    bl_autofree int32_t *slot = calloc((size_t)(2 * mb->B + 1), sizeof *slot);
    if (!slot || (sampling && !scratch))
        return bl_fail(err, BL_ENOMEM, "no memory for %lld captions", (long long)mb->B);
    int32_t *token = slot + mb->B;
    for (int64_t b = 0; b < mb->B; b++)
        slot[b] = (int32_t)b;
    for (int32_t step = 0; live > 0; step++) {
        int64_t kept = 0;
        for (int64_t i = 0; i < live; i++) {
            struct captioner_caption *caption = &captions[slot[i]];
            int32_t id = next_token(decoder, options, i, sampling ? mb->positions[slot[i]] : 0,
                                    step, scratch, &caption->nll);
            if (ends(options, id)) {
                caption->ended = true;
                continue;
            }
            caption->ids[caption->count++] = id;
            if (is_full(options, caption->ids, caption->count))
                continue;
            slot[kept] = slot[i];
            token[kept++] = id;
        }
        live = kept;
        if (live > 0)
            BL_TRY(decoder_token(decoder, slot, token, live, err));
    }
    return 0;
}

/* -- beam search -- */

/* A text of one image's search; ids (longest) lie in the search's block. */
struct hypothesis {
    double log_p, score; /* score = log p / length, of finished ones */
    int32_t *ids;
    int32_t count;
    bool ended;
};

/* A continuation: hypothesis `from` and one more token. */
struct continuation {
    double log_p;
    int32_t from, id;
};

struct search {
    struct hypothesis *running, *next, *finished; /* (beams) each */
    int32_t running_count, finished_count;
    bool done;
};

/* Everything that beam search keeps on the host. */
struct beams {
    const struct captioner_generation *options;
    int32_t candidates_max;
    struct search *searches; /* (B) */
    struct hypothesis *hypotheses;
    int32_t *ids;
    struct continuation *candidates; /* best first */
};

static void beams_release(struct beams *beams)
{
    free(beams->searches);
    free(beams->hypotheses);
    free(beams->ids);
    free(beams->candidates);
}

/* Continuations of a text that are looked at: enough that as many as there are beams continue, whichever of the best are
 * an EOS. */
static int64_t candidates_of(const struct captioner_generation *options, int64_t V)
{
    return bl_min(options->beams * bl_max(2, 1 + options->eos_count), V);
}

static int beams_init(struct beams *beams, const struct captioner_generation *options, int64_t B,
                      int64_t candidates, struct bl_error *err)
{
    int64_t k = options->beams, each = 3 * k;
    *beams = (struct beams){.options = options, .candidates_max = (int32_t)candidates};
    beams->searches = calloc((size_t)B + 1, sizeof *beams->searches);
    beams->hypotheses = calloc((size_t)(B * each) + 1, sizeof *beams->hypotheses);
    beams->ids = calloc((size_t)(B * each * longest(options)) + 1, sizeof *beams->ids);
    beams->candidates = calloc((size_t)beams->candidates_max + 1, sizeof *beams->candidates);
    if (!beams->searches || !beams->hypotheses || !beams->ids || !beams->candidates)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld beams", (long long)(B * k));
    for (int64_t i = 0; i < B * each; i++)
        beams->hypotheses[i].ids = beams->ids + i * longest(options);
    for (int64_t b = 0; b < B; b++) {
        struct hypothesis *own = beams->hypotheses + b * each;
        beams->searches[b] = (struct search){own, own + k, own + 2 * k, 1, 0, false};
    }
    return 0;
}

/* Inserts into the sorted list of the best. Returns its new length. */
static int32_t insert_candidate(struct continuation *list, int32_t count, int32_t max,
                                struct continuation c)
{
    int32_t at = count < max ? count : max - 1;
    if (count == max && !(c.log_p > list[at].log_p))
        return count;
    for (; at > 0 && c.log_p > list[at - 1].log_p; at--)
        list[at] = list[at - 1];
    list[at] = c;
    return count < max ? count + 1 : max;
}

/* The best continuations of one image's running texts, which are those last run from the `row`-th on. */
static int32_t best_continuations(struct beams *beams, const struct search *search,
                                  const struct decoder *decoder, int64_t row)
{
    int32_t count = 0;
    for (int32_t r = 0; r < search->running_count; r++, row++) {
        double base = search->running[r].log_p - decoder->log_sum[row];
        for (int64_t i = row * decoder->k; i < (row + 1) * decoder->k; i++) {
            struct continuation c = {base + (double)decoder->likeliest[i], r,
                                     decoder->candidate[i]};
            count = insert_candidate(beams->candidates, count, beams->candidates_max, c);
        }
    }
    return count;
}

static void copy_hypothesis(struct hypothesis *to, const struct hypothesis *from)
{
    int32_t *ids = to->ids;
    memcpy(ids, from->ids, (size_t)from->count * sizeof *ids);
    *to = *from;
    to->ids = ids;
}

/* Puts a finished text among the best `beams` by score. */
static void finish(struct search *search, int32_t max, const struct hypothesis *text, double score,
                   bool ended)
{
    int32_t at = search->finished_count;
    if (at == max) {
        at = 0;
        for (int32_t i = 1; i < max; i++)
            if (search->finished[i].score < search->finished[at].score)
                at = i;
        if (!(score > search->finished[at].score))
            return;
    } else {
        search->finished_count++;
    }
    copy_hypothesis(&search->finished[at], text);
    search->finished[at].score = score;
    search->finished[at].ended = ended;
}

/* No running text can still beat the worst finished one, at today's length. */
static bool is_settled(const struct search *search, int32_t max, int32_t length)
{
    if (search->finished_count < max)
        return false;
    double worst = search->finished[0].score, best = search->running[0].log_p;
    for (int32_t i = 1; i < max; i++)
        worst = fmin(worst, search->finished[i].score);
    for (int32_t i = 1; i < search->running_count; i++)
        best = fmax(best, search->running[i].log_p);
    return !(best / length > worst);
}

/* One step of one image, whose running texts are those last run from the `row`-th on: they become the best continuations;
 * parent[i], token[i] tell which text and token the i-th of them continues. length = tokens of each continuation. */
static void advance(struct beams *beams, struct search *search, const struct decoder *decoder,
                    int64_t row, int32_t length, int32_t *parent, int32_t *token)
{
    const struct captioner_generation *options = beams->options;
    int32_t count = best_continuations(beams, search, decoder, row), next = 0;
    for (int32_t rank = 0; rank < count && next < options->beams; rank++) {
        const struct continuation *c = &beams->candidates[rank];
        struct hypothesis *to = &search->next[next];
        bool ended = ends(options, c->id);
        copy_hypothesis(to, &search->running[c->from]);
        to->log_p = c->log_p;
        if (!ended)
            to->ids[to->count++] = c->id;
        bool full = !ended && is_full(options, to->ids, to->count);
        if ((ended || full) && rank < options->beams)
            finish(search, options->beams, to, c->log_p / length, ended);
        if (ended || full)
            continue;
        parent[next] = c->from;
        token[next++] = c->id;
    }
    struct hypothesis *running = search->running;
    search->running = search->next;
    search->next = running;
    search->running_count = next;
    search->done = next == 0 || is_settled(search, options->beams, length);
}

static void take_best(const struct search *search, struct captioner_caption *caption)
{
    const struct hypothesis *best = &search->finished[0];
    for (int32_t i = 1; i < search->finished_count; i++)
        if (search->finished[i].score > best->score)
            best = &search->finished[i];
    memcpy(caption->ids, best->ids, (size_t)best->count * sizeof *best->ids);
    caption->count = best->count;
    caption->ended = best->ended;
    caption->nll = (float)-best->log_p;
}

static int generate_beams(struct decoder *decoder, int64_t B,
                          const struct captioner_generation *options,
                          struct captioner_caption *captions, struct bl_error *err)
{
    int64_t k = options->beams, slots = B * k;
    __attribute__((cleanup(beams_release))) struct beams beams;
    BL_TRY(beams_init(&beams, options, B, decoder->k, err));
    bl_autofree int32_t *host = calloc((size_t)(3 * slots + 1), sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld beams", (long long)slots);
    int32_t *parent = host, *slot = host + slots, *token = host + 2 * slots;
    for (int32_t length = 1; length <= longest(options); length++) {
        int64_t live = 0, row = 0;
        for (int64_t s = 0; s < slots; s++)
            parent[s] = (int32_t)s;
        for (int64_t b = 0; b < B; b++) {
            struct search *search = &beams.searches[b];
            if (search->done)
                continue;
            const int32_t texts = search->running_count;
            advance(&beams, search, decoder, row, length, parent + b * k, token + live);
            row += texts;
            if (search->done)
                continue;
            for (int32_t i = 0; i < search->running_count; i++) {
                parent[b * k + i] += (int32_t)(b * k);
                slot[live++] = (int32_t)(b * k + i);
            }
        }
        if (live == 0)
            break;
        BL_TRY(decoder_reorder(decoder, parent, err));
        BL_TRY(decoder_token(decoder, slot, token, live, err));
    }
    for (int64_t b = 0; b < B; b++)
        take_best(&beams.searches[b], &captions[b]);
    return 0;
}

/* -- the whole -- */

int captioner_generate(struct captioner *c, const struct micro_batch *mb,
                       const struct captioner_generation *options,
                       struct captioner_caption *captions, struct bl_error *err)
{
    BL_ASSERT(options->max_new >= 1 && options->beams >= 1);
    BL_ASSERT(!options->max_trace || options->close_count > 0);
    for (int64_t b = 0; b < mb->B; b++)
        captions[b] = (struct captioner_caption){.ids = captions[b].ids};
    if (mb->B == 0)
        return 0;
    struct arena *arena = &c->arena;
    BL_TRY(arena_reset(arena, err));
    __attribute__((cleanup(layout_release))) struct layout layout = {0};
    BL_TRY(captioner_layout(c, mb, true, &layout, err));
    int64_t rows = layout.rows.sequences.len_max + longest(options);
    if (rows > c->llm_config.positions_max) {
        bl_fail(err, BL_EDATA, "prompt and caption of %lld rows exceed the language model's %lld",
                (long long)rows, (long long)c->llm_config.positions_max);
        return bl_error_remedy(err, "ask for fewer new tokens (--max-new)");
    }
    struct images images;
    act *y;
    BL_TRY(captioner_images(c, mb, NULL, &images, err));
    BL_TRY(arena_act(arena, mb->B * c->options.queries * c->llm_config.hidden, &y, err));
    BL_TRY(captioner_project(c, &images, y, NULL, err));
    __attribute__((cleanup(decoder_release))) struct decoder decoder = {0};
    int64_t wanted = options->beams > 1         ? candidates_of(options, c->llm_config.vocabulary)
                     : options->temperature > 0 ? 0
                                                : 1;
    BL_TRY(
        decoder_init(&decoder, c, mb->B * options->beams, rows, wanted, options->beams > 1, err));
    BL_TRY(decoder_prompt(&decoder, &layout, y, options->beams, err));
    return options->beams > 1 ? generate_beams(&decoder, mb->B, options, captions, err)
                              : generate_single(&decoder, mb, options, captions, err);
}
