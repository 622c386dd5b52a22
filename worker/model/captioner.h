/* worker/model/captioner.h - the whole captioner over ops.h: frozen vision tower, trainable
 * Q-Former and projector, frozen LLM; what is computed stands in docs/recipe.md.
 *
 * Letters   B images, N vision tokens an image, K queries, T text tokens, R rows of all sequences
 *           together, d_v, d_q, d widths of the vision tower, the Q-Former and the LLM, E experts.
 * Sequence  [BOS] K queries then text, or K queries [BOS] then text; positions count from 0; no
 *           padding anywhere.
 * Step      captioner_step_begin; captioner_forward_backward for each micro-batch;
 *           captioner_step_sums; moe: captioner_router_backward. Gradients are sums over label
 *           tokens: the trainer divides them by the global batch's token count, except the router's,
 *           which come out final.
 * Threads   a captioner belongs to one thread, that of its ops. captioner_params and the two
 *           functions on it are immutable after opening and may be used from any thread (a
 *           checkpoint is written beside training).
 * Errors    -BL_ENOMEM, -BL_EDEVICE, and for micro-batches that cannot be (ids outside the
 *           vocabulary, a sequence longer than the LLM's positions) -BL_EDATA. After a failed call
 *           the step's gradients are undefined. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/file.h"
#include "common/models/hf.h"
#include "worker/ops/ops.h"

#define CAPTIONER_EXPERTS_MAX 64
#define CAPTIONER_SOURCES_MAX 16 /* BL_SOURCES_MAX */

enum captioner_projector { CAPTIONER_NORMAL, CAPTIONER_MOE };
/* What the router looks at. First: the first patch, as in the original notebooks. */
enum captioner_routing { CAPTIONER_POOLED, CAPTIONER_MEAN, CAPTIONER_FIRST };
enum captioner_bos { CAPTIONER_BOS_FIRST, CAPTIONER_BOS_AFTER_IMAGE, CAPTIONER_BOS_NONE };

/* Form of the Q-Former's cross-attention (cross.h): the one with fewer operations, unless a test or a
 * benchmark wants one. */
enum captioner_cross { CAPTIONER_CROSS_FEWER, CAPTIONER_CROSS_PLAIN, CAPTIONER_CROSS_FOLDED };

struct captioner_options {
    const char *vision, *llm;              /* Hugging Face folders */
    int64_t width, queries, layers, heads; /* Q-Former; width 0 = the LLM's */
    float dropout;                         /* in the Q-Former */
    enum captioner_projector projector;
    float projector_dropout;
    int64_t experts; /* the last two: moe only */
    enum captioner_routing routing;
    enum captioner_bos bos;
    int32_t bos_id; /* -1: the tokenizer adds none, so bos is as good as none */
    enum captioner_cross cross;
    bool
        recompute; /* blocks of the Q-Former and the LLM keep their inputs alone for backward, which computes the rest again */
    bool images_alone;  /* an image's features do not depend on the images that it comes with */
    bool features_only; /* the tower's weights are not loaded: micro-batches have features */
};

struct captioner;

/* Reads both folders, packs the frozen weights, allocates values and gradients (values not
 * initialised: call captioner_init, or copy values in and call
 * captioner_params_changed). ops is borrowed for the captioner's life.
 * *ret is the caller's. -BL_ECONFIG: options that do not fit together (width not divisible by heads
 * …), key named; -BL_EFORMAT: a tensor is missing or has a wrong shape, file and name given. */
int captioner_open(struct ops *ops, const struct captioner_options *options, struct captioner **ret,
                   struct bl_error *err);
/* NULL is fine; sets *c to NULL. */
void captioner_free(struct captioner **c);

/* What the folders said. Borrowed. */
const struct hf_vision *captioner_vision(const struct captioner *c);
const struct hf_llm *captioner_llm(const struct captioner *c);
const struct hf_preprocess *captioner_preprocess(const struct captioner *c);

/* -- trainable parameters -- */

enum captioner_file {
    CAPTIONER_QFORMER,
    CAPTIONER_PROJECTOR
}; /* qformer.safetensors, projector.safetensors */

struct captioner_param {
    char name[64]; /* the original's: "layers.0.self_attn.in_proj_weight" */
    enum captioner_file file;
    int rank;
    int64_t dims[2];
    int64_t offset, count; /* in elements of the flat buffers */
    bool matrix;           /* false: norm, bias or query, which train.decay_norms: false spares */
};

/* Values and gradients are flat f32 buffers of `count` elements with one layout. Tensors stand in
 * the order in which backward finishes with them: projector, out_proj, final_ln, layers from the
 * last to the first, vis_proj, query, and the router at the end ([router_first, count), empty when
 * normal). Each starts at a multiple of 64 bytes; the gaps hold zeros in both buffers and must go
 * on doing so (AdamW keeps them zero). */
struct captioner_params {
    const struct captioner_param *at;
    int64_t tensors, count, router_first;
    dev_f32 *values, *grads; /* device */
};

const struct captioner_params *captioner_params(const struct captioner *c);
/* Fills values with PyTorch's default initial values, drawn by Philox from (seed, tensor name,
 * element). */
int captioner_init(struct captioner *c, uint64_t seed, struct bl_error *err);
/* Must follow every change of values (optimizer step, init, load): the matmul's copies are made
 * anew. */
void captioner_params_changed(struct captioner *c);

/* One of the two files from a flat buffer (values, moments, average) in host memory, into an open
 * writer, which the caller commits. */
int captioner_params_write(const struct captioner_params *params, enum captioner_file file,
                           struct bl_file_writer *writer, const float *host, struct bl_error *err);
/* One of the two files into a flat buffer on the device, by pieces. Strict: -BL_EFORMAT names the file
 * and the tensor that is missing, unknown or of another shape; f16 and bf16 are widened. Elements of the
 * other file stay. */
int captioner_params_read(const struct captioner_params *params, enum captioner_file file,
                          const char *path, struct ops *ops, dev_f32 *device, struct bl_error *err);
/* docs/recipe.md, Checkpoint, "One SHA-256": over the tensors of the two files, sorted by file and
 * name, each as "NAME F32 SHAPE\n" and its bytes; host memory. 64 digits and a NUL. */
int captioner_params_sha256(const struct captioner_params *params, const float *host,
                            char ret_hex[65], struct bl_error *err);

/* -- micro-batches -- */

/* B images that are not void (B = 0 is fine) with one text each; all host memory, borrowed for the
 * call. */
struct micro_batch {
    int64_t B;
    const uint8_t *pixels; /* (B,S,S,3), S = image_size; NULL when features are given */
    const float *features; /* (B,N,d_v) f32: what the tower gives, or NULL */
    const float *pooled; /* (B,d_v) f32, beside features; read only by a router that looks at it */
    const int32_t *ids;  /* text tokens of all images together: prefix, caption, EOS */
    const int32_t *ids_start; /* (B+1): image b's are ids[ids_start[b] .. ids_start[b+1]) */
    const uint8_t *labels;    /* as long as ids: 1 = the loss counts this token */
    bool
        text_only; /* evaluation: the LLM sees no image; a text's first token is then no label, unless there is a BOS */
    const int32_t *positions; /* (B) place j in the global batch, for dropout */
    const int32_t *sources;   /* (B) whose sums an image counts in, below CAPTIONER_SOURCES_MAX;
                                 NULL: all in those of source 0 */
};

/* The most bytes of the device that a micro-batch took so far, beside parameters; and as many reserved for those to come, before
 * the first one: in one piece, none of which is touched on a CPU. -BL_ENOMEM */
size_t captioner_micro_batch_bytes(const struct captioner *c);
int captioner_reserve(struct captioner *c, size_t bytes, struct bl_error *err);

/* From now on a step's tower may be started ahead, for up to B images: captioner_look_ahead. The device's ops have open_beside. -BL_ENOMEM: it
 * lacks the memory (ahead.h), and nothing has changed. */
int captioner_open_ahead(struct captioner *c, int64_t B, struct bl_error *err);
bool captioner_looks_ahead(const struct captioner *c);
/* After a micro-batch was queued: starts the tower of the one that follows it, which may then find its features ready. They are
 * known by the address of its pixels, which are read before this returns. */
int captioner_look_ahead(struct captioner *c, int64_t B, const uint8_t *pixels,
                         struct bl_error *err);
/* It will not follow. */
void captioner_forget_ahead(struct captioner *c);

/* What the frozen tower gives for these images, to be handed in as features and pooled (untouched unless the router looks at
 * it); host memory. The gradients are then the same to the bit as with the pixels. */
int captioner_encode(struct captioner *c, int64_t B, const uint8_t *pixels, float *features,
                     float *pooled, struct bl_error *err);

/* Called when gradients [first, first + count) of this micro-batch are final: ranges come in order
 * and cover [0, router_first) exactly once, B = 0 included. The trainer may queue work on them, or
 * take them away and zero them (grains), from inside the callback. */
typedef void captioner_grads_ready(void *ctx, int64_t first, int64_t count);

struct captioner_pass {
    uint64_t seed;
    uint32_t step;
    bool dropout;
    captioner_grads_ready *grads_ready; /* NULL: none */
    void *ctx;
};

/* Forgets the sums and the router's images of the step before. Gradients are the trainer's to zero.
 */
void captioner_step_begin(struct captioner *c);
/* Adds the gradient of the SUM of -log p over the micro-batch's label tokens to grads [0,
 * router_first); keeps what the router needs. Waits for nothing on the device. */
int captioner_forward_backward(struct captioner *c, const struct micro_batch *mb,
                               const struct captioner_pass *pass, struct bl_error *err);

/* Sums over the step's micro-batches on this worker. The doubles are sums of multiples of 2^-24, so
 * that adding them up is exact (below 2^29) in any order and on any number of workers. */
struct captioner_source_sums {
    double nll;
    int64_t tokens, images;
};
struct captioner_sums {
    double nll;
    int64_t tokens, images;
    struct captioner_source_sums source[CAPTIONER_SOURCES_MAX]; /* which add up to those */
    /* moe, zero otherwise: */
    int64_t share[CAPTIONER_EXPERTS_MAX]; /* sum over images of round(w_e 2^36): exact in any order,
                                             too */
    double entropy; /* sum over images of the routing weights' entropy, nats */
    double lse2;    /* sum over images of logsumexp(z)^2, for the z-loss */
};
/* Waits for the device. */
int captioner_step_sums(struct captioner *c, struct captioner_sums *ret, struct bl_error *err);

/* What the router's gradient needs from the whole global batch. */
struct captioner_router {
    double share[CAPTIONER_EXPERTS_MAX]; /* P_e: mean weight of expert e over `images` */
    double tokens, images;               /* T and B' */
    float alpha, beta;
};
/* Adds the final gradient (already divided) of the router to grads [router_first, count), once at
 * the step's end: from micro-batch `grain` of the step alone (0 = the first), or from all with -1.
 * A no-op when normal. */
int captioner_router_backward(struct captioner *c, const struct captioner_router *router,
                              int64_t grain, struct bl_error *err);

/* -- evaluation -- */

struct captioner_score {
    double nll;      /* nats, summed over the text's label tokens; a sum of multiples of 2^-24 */
    int32_t tokens;  /* their number */
    int32_t correct; /* label is the arg max */
};
/* Without dropout. scores (B). shuffled (B) or NULL: text b scored with image permutation[b]
 * instead; the images are looked at once. Under mb->text_only there are
 * none (permutation and shuffled NULL): the same losses of the LLM alone. Leaves the step's sums and gradients alone. */
int captioner_evaluate(struct captioner *c, const struct micro_batch *mb,
                       struct captioner_score *scores, const int32_t *permutation,
                       struct captioner_score *shuffled, struct bl_error *err);
/* weights (B,E) host: the router's softmax for each image. moe only; mb's text is not read. */
int captioner_routing_weights(struct captioner *c, const struct micro_batch *mb, float *weights,
                              struct bl_error *err);

/* -- captions -- */

struct captioner_generation {
    int32_t max_new;
    int32_t
        max_trace; /* 0: max_new counts all tokens. Else a text begins with a trace of so many tokens at most, up to and */
    const int32_t *
        close; /* with these ids, and max_new counts what follows them; a trace that grows longer ends the text */
    int32_t close_count;
    int32_t beams;      /* 1: greedy, or sampling when temperature > 0 */
    float temperature;  /* 0: the most likely token */
    float top_p;        /* 1: no cut */
    uint64_t seed;      /* sampling draws by (seed, positions[b], token index) */
    const int32_t *eos; /* any of these ends a caption; count 0: only max_new does */
    int32_t eos_count;
};

struct captioner_caption {
    int32_t *ids;  /* (max_trace + max_new) the caller's memory */
    int32_t count; /* ids written, EOS excluded */
    bool ended;    /* an EOS came */
    float nll;     /* of the ids and the EOS, nats */
};

/* Continues each image's prompt (mb's ids; mb->labels is not read, positions only for sampling).
 * captions (B). Finished ones leave the batch. Beam: candidates are compared by log p / length (EOS
 * counted), as transformers does with length_penalty 1 and early_stopping false. */
int captioner_generate(struct captioner *c, const struct micro_batch *mb,
                       const struct captioner_generation *options,
                       struct captioner_caption *captions, struct bl_error *err);

/* Cross-attention of the Q-Former's last block, mean over heads: probs (B,K,g*g) host, g = the
 * tower's grid; a ViT's class token is left out (rows then sum to less than 1). mb's text is not
 * read. */
int captioner_attention(struct captioner *c, const struct micro_batch *mb, float *probs,
                        struct bl_error *err);
