/* worker/engine_embed.c - the engine of an embedding run: no communicator, and no state but that of a run without steps. */
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "worker/engine_state.h"

int engine_embed_load(struct engine *e, struct bl_error *err)
{
    const struct engine_options *o = &e->options;
    BL_TRY(
        hf_folder_sha256(o->config->vision.path, HF_IDENTITY_ALL, e->metadata.vision_sha256, err));
    BL_TRY(ops_open(o->device, options_precision(o->config), o->threads, &e->ops, err));
    return embedder_open(e->ops, o->config, o->dataset, o->images, o->image_count, &e->embedder,
                         err);
}

int engine_embed_form(struct engine *e, const struct command *c, struct engine_event *event)
{
    static const char nothing[] = "a run without steps";
    bl_sha256(nothing, sizeof nothing, e->digest);
    e->has_state = e->digest_known = true;
    memcpy(event->digest, e->digest, sizeof event->digest);
    event->kind = ENGINE_FORMED;
    engine_set_phase(e, "embed", "");
    return 0;
}

int engine_embed_compute(struct engine *e, const struct command *c, struct engine_event *event)
{
    event->kind = ENGINE_COMPUTED;
    event->slot = c->slot;
    event->validation.images = c->batch->good;
    if (embedder_run(e->embedder, c->batch, &event->error) == 0)
        return 0;
    event->kind =
        ENGINE_BROKEN; /* a disk, or a feature out of the format's range: no peer's fault */
    return -event->error.code;
}
