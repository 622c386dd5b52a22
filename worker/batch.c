/* worker/batch.c - see batch.h. */
#include "worker/batch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/data/run.h"
#include "proto/wire.h"

static int check_indices(const struct batch_rules *rules, const struct batch *b,
                         struct bl_error *err)
{
    enum bl_kind kind = (enum bl_kind)b->kind;
    uint32_t micro_batches = bl_plan_micro_batches(rules->plan, kind);
    if (b->micro_batch >= micro_batches)
        return bl_fail(err, BL_EPROTO, "expected a micro-batch below %u, found %u", micro_batches,
                       b->micro_batch);
    struct bl_range indices = bl_plan_indices(rules->plan, kind, b->micro_batch);
    if (indices.first != b->first || indices.count != b->count)
        return bl_fail(err, BL_EPROTO,
                       "expected micro-batch %u with batch indices %u + %u, found %u + %u",
                       b->micro_batch, indices.first, indices.count, b->first, b->count);
    return 0;
}

static int read_header(const struct batch_rules *rules, const Blipren__BatchHeader *h,
                       struct batch *b, struct bl_error *err)
{
    if (h->version != BL_PROTOCOL_VERSION)
        return bl_fail(err, BL_EPROTO, "expected a batch of protocol version %d, found %u",
                       BL_PROTOCOL_VERSION, h->version);
    if (memcmp(h->run.data, rules->run, RUN_ID_BYTES) != 0)
        return bl_fail(err, BL_EPROTO, "a batch of another run");
    if (h->image_side != rules->image_side)
        return bl_fail(err, BL_EPROTO, "expected images of side %lld, found %u",
                       (long long)rules->image_side, h->image_side);
    if (h->cached != rules->cached && !(h->cached && rules->fill))
        return bl_fail(err, BL_EPROTO, "a batch %s pixels", h->cached ? "without" : "with");
    if (h->rows != (rules->row_bytes > 0))
        return bl_fail(err, BL_EPROTO, "a batch %s rows of the feature cache",
                       h->rows ? "with" : "without");
    snprintf(b->loader, sizeof b->loader, "%s", h->loader);
    b->cached = h->cached;
    b->kind = (enum batch_kind)h->kind;
    b->generation = h->generation;
    b->worker = h->worker;
    b->step = h->step;
    b->micro_batch = h->micro_batch;
    b->first = h->first;
    b->count = (uint32_t)h->n_slots;
    return check_indices(rules, b, err);
}

/* The good slots; returns the number of their ids. */
static size_t read_slots(const Blipren__BatchHeader *h, struct batch *b)
{
    size_t tokens = 0;
    for (size_t i = 0; i < h->n_slots; i++) {
        const Blipren__Slot *s = h->slots[i];
        uint32_t index = h->first + (uint32_t)i;
        b->digest += bl_sample_term(index, s->sample);
        if (s->bad)
            continue;
        b->slots[b->good++] =
            (struct batch_slot){.sample = s->sample,
                                .image_hash = s->image_hash,
                                .index = (int32_t)index,
                                .tokens = (int32_t)s->tokens,
                                .prefix = (int32_t)s->prefix,
                                .label_first = (int32_t)s->label_first,
                                .label_end = (int32_t)(s->label_end ? s->label_end : s->tokens)};
        tokens += s->tokens;
    }
    return tokens;
}

static int check_sizes(const struct batch_rules *rules, struct wire_frames *frames,
                       const struct batch *b, size_t tokens, struct bl_error *err)
{
    int64_t good = b->good;
    size_t image =
        b->cached ? rules->row_bytes : (size_t)(rules->image_side * rules->image_side * 3);
    size_t images = (size_t)good * image;
    size_t found_images = zmq_msg_size(&frames->at[1]), found_ids = zmq_msg_size(&frames->at[2]);
    if (found_images == images && found_ids == tokens * sizeof(int32_t))
        return 0;
    return bl_fail(err, BL_EPROTO, "expected %zu bytes of images and %zu of ids, found %zu and %zu",
                   images, tokens * sizeof(int32_t), found_images, found_ids);
}

/* A copy: a frame may lie anywhere in ZeroMQ's buffer, an int32_t may not. */
static int read_ids(const struct batch_rules *rules, zmq_msg_t *frame, size_t count, int32_t **ret,
                    struct bl_error *err)
{
    int32_t *ids = *ret = malloc((count + 1) * sizeof *ids);
    if (!ids)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu ids", count);
    memcpy(ids, zmq_msg_data(frame), count * sizeof *ids);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= rules->vocabulary)
            return bl_fail(err, BL_EPROTO, "expected ids below %lld, found %d",
                           (long long)rules->vocabulary, ids[i]);
    return 0;
}

static int read_all(const struct batch_rules *rules, const Blipren__BatchHeader *h,
                    struct wire_frames *frames, struct batch *b, struct bl_error *err)
{
    BL_TRY(read_header(rules, h, b, err));
    b->slots = calloc(h->n_slots, sizeof *b->slots);
    if (!b->slots)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu slots", h->n_slots);
    size_t tokens = read_slots(h, b);
    BL_TRY(check_sizes(rules, frames, b, tokens, err));
    return read_ids(rules, &frames->at[2], tokens, &b->ids, err);
}

int batch_read(const struct batch_rules *rules, struct wire_frames *frames, struct batch **ret,
               struct bl_error *err)
{
    bl_auto(batch) struct batch *b = calloc(1, sizeof *b);
    Blipren__BatchHeader *h;
    if (!b)
        return bl_fail(err, BL_ENOMEM, "no memory for a batch");
    if (frames->count != 3)
        return bl_fail(err, BL_EPROTO, "expected 3 frames, found %d", frames->count);
    BL_TRY(wire_unpack_header(zmq_msg_data(&frames->at[0]), zmq_msg_size(&frames->at[0]), &h, err));
    int rc = read_all(rules, h, frames, b, err);
    if (rc < 0)
        bl_error_peer(err, h->loader);
    wire_header_free(&h);
    BL_TRY(rc);
    wire_frames_move(&b->frames, frames);
    b->pixels = b->rows = zmq_msg_data(&b->frames.at[1]);
    *ret = bl_take(&b);
    return 0;
}

/* The sample that the plan has at a batch index (S1). */
static uint64_t planned_sample(const struct bl_plan *plan, const struct dataset *dataset,
                               const uint64_t *images, const struct batch *b, uint32_t index)
{
    uint32_t epoch;
    uint64_t i;
    if (b->kind == BATCH_EMBED)
        return images[index];
    if (b->kind == BATCH_VALIDATE)
        return dataset_id(dataset, DATASET_VALIDATION, bl_plan_validation_sample(plan, index));
    bl_plan_sample(plan, b->step, index, &epoch, &i);
    return dataset_id(dataset, DATASET_TRAIN, i);
}

int batch_check_samples(const struct batch *b, const struct bl_plan *plan,
                        const struct dataset *dataset, const uint64_t *images, struct bl_error *err)
{
    uint64_t digest = 0;
    if ((b->kind == BATCH_EMBED) != (plan->kind == BL_KIND_EMBED)) {
        bl_fail(err, BL_EPROTO, "a micro-batch for another kind of run");
        return bl_error_peer(err, b->loader);
    }
    for (uint32_t index = b->first; index < b->first + b->count; index++)
        digest += bl_sample_term(index, planned_sample(plan, dataset, images, b, index));
    if (b->digest == digest)
        return 0;
    bl_fail(err, BL_EPROTO, "micro-batch %u of step %" PRIu64 " has other samples than assigned",
            b->micro_batch, b->step);
    return bl_error_peer(err, b->loader);
}

void batch_free(struct batch **batch)
{
    struct batch *b = *batch;
    if (!b)
        return;
    wire_frames_close(&b->frames);
    free(b->slots);
    free(b->ids);
    free(b);
    *batch = NULL;
}
