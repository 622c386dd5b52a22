/* worker/model/captioner_private.h - the captioner's inside, shared by captioner.c, step.c,
 * evaluate.c and generate.c. */
#pragma once

#include "worker/model/ahead.h"
#include "worker/model/arena.h"
#include "worker/model/captioner.h"
#include "worker/model/llm.h"
#include "worker/model/params.h"
#include "worker/model/projector.h"
#include "worker/model/qformer.h"
#include "worker/model/recorder.h"
#include "worker/model/vision.h"

/* A text of the step: its label tokens, and the source whose sums they count in. */
struct step_text {
    int64_t labels;
    int32_t source;
};

/* What a step keeps beyond its micro-batches (device arrays that grow, owned). */
struct step_store {
    int64_t tokens, tokens_capacity;
    dev_f32 *nll; /* (tokens) */

    int64_t images, images_capacity;
    act *routing;     /* (images, d_v) moe: what the router saw */
    dev_f32 *w, *d_w; /* (images, E): its weights, and the cross entropy's gradient there */
    dev_f32 *lse;     /* (images) */
    int64_t *grain;   /* (grains) host: each micro-batch's first image; the next one's is its end */
    int64_t grains, grains_capacity;
    struct step_text *texts; /* (images) host */
    int64_t texts_capacity;
};

struct captioner {
    struct ops *ops;
    struct captioner_options options;
    struct hf_vision vision_config;
    struct hf_llm llm_config;
    struct hf_preprocess preprocess;
    struct vision *vision;
    struct ahead *ahead; /* NULL: the tower is part of its step */
    struct llm *llm;
    struct params params;
    struct qformer *qformer;
    struct projector *projector;
    int64_t projector_end;    /* offset behind the experts' or the MLP's last tensor */
    struct arena arena;       /* of the micro-batch at hand */
    struct recorder recorder; /* of captions' tokens */
    struct step_store step;
};

static inline bool captioner_is_moe(const struct captioner *c)
{
    return c->options.projector == CAPTIONER_MOE;
}

/* What the frozen tower gives for a micro-batch. */
struct images {
    int64_t B;
    act *features; /* (B*N, d_v) */
    act *routing;  /* (B, d_v); NULL unless moe */
};
/* From pixels or cached features. routing goes to `routing` when not NULL, else to the arena. */
int captioner_images(struct captioner *c, const struct micro_batch *mb, act *routing,
                     struct images *ret, struct bl_error *err);
/* The same of a step's micro-batch, whose tower may have been started ahead. */
int captioner_step_images(struct captioner *c, const struct micro_batch *mb, act *routing,
                          struct images *ret, struct bl_error *err);

/* Where the rows of a micro-batch's sequences come from and go to; all arrays on the device but
 * label_counts. */
struct layout {
    int64_t S, tokens, labels; /* sequences; text tokens and BOS; rows asked for */
    int64_t queries;           /* of each sequence: K, or 0 of a text alone */
    struct llm_rows rows;
    const dev_i32 *ids, *token_rows; /* (tokens): ids and the rows they stand in */
    const dev_i32 *query_rows;       /* (S*queries) */
    const dev_i32 *label_ids;        /* (labels): what rows.keep are to predict */
    const dev_i32 *positions;        /* (S): the micro-batch's; not there where that has none */
    int32_t *label_counts;           /* (S) host, owned */
    int32_t *lengths;                /* (S) host, owned: rows of each sequence */
};
void layout_release(struct layout *layout);
/* Checks ids and lengths. With prompts, the rows asked for are the last of each sequence and there
 * are no labels. */
int captioner_layout(struct captioner *c, const struct micro_batch *mb, bool prompts,
                     struct layout *ret, struct bl_error *err);
/* x (R, d): text embeddings, and the projected queries y (S*K, d) in their rows. */
int captioner_inputs(struct captioner *c, act *x, const struct layout *layout, const act *y,
                     struct bl_error *err);

/* y (B*K, d): queries and projector without dropout, nothing saved; moe: w (B,E) to the arena and
 * *ret_w (NULL: not wanted). */
int captioner_project(struct captioner *c, const struct images *images, act *y, dev_f32 **ret_w,
                      struct bl_error *err);

/* nll rounded to a multiple of 2^-24, so that sums are exact in any order. */
double captioner_exact(double x);
