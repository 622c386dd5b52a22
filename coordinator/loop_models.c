/* coordinator/loop_models.c - are the models that a peer has on its host those of the run? Paths do not tell: each host has its own. */
#include <stdio.h>
#include <string.h>

#include "common/models/hf.h"
#include "coordinator/loop_state.h"

static int hash(const struct loop *l, enum hf_identity identity, char ret_vision[65],
                char ret_llm[65], struct bl_error *err)
{
    BL_TRY(hf_folder_sha256(l->config->vision.path, identity, ret_vision, err));
    return hf_folder_sha256(l->config->llm.path, identity, ret_llm, err);
}

int loop_hash_models(struct loop *l, struct bl_error *err)
{
    BL_TRY(hash(l, HF_IDENTITY_SETTINGS, l->models[BL_ROLE_LOADER].vision,
                l->models[BL_ROLE_LOADER].llm, err));
    if (l->options->local)
        return 0;
    return hash(l, HF_IDENTITY_ALL, l->models[BL_ROLE_WORKER].vision, l->models[BL_ROLE_WORKER].llm,
                err);
}

/* A child sees what its coordinator sees. */
static void learn(struct loop *l, const struct peer *peer, char known[65], const char *found)
{
    if (!known[0] && found[0] && l->children && children_runs(l->children, peer->secret))
        snprintf(known, 65, "%s", found);
}

static bool differ(const char *known, const char *found)
{
    return known[0] && found[0] && strcmp(known, found) != 0;
}

bool loop_has_models(struct loop *l, struct peer *peer, const Blipren__Ended *m)
{
    char text[300], *vision = l->models[peer->role].vision, *llm = l->models[peer->role].llm;
    learn(l, peer, vision, m->vision_sha256);
    learn(l, peer, llm, m->llm_sha256);
    bool other_vision = differ(vision, m->vision_sha256);
    if (!other_vision && !differ(llm, m->llm_sha256))
        return true;
    snprintf(text, sizeof text,
             "its %s is another model than the run's (expected SHA-256 %.16s…, found %.16s…)",
             other_vision ? "vision.path" : "llm.path", other_vision ? vision : llm,
             other_vision ? m->vision_sha256 : m->llm_sha256);
    loop_refuse(
        l, peer, text,
        "put the run's model at the same path there, or say with --map FROM=TO where it is");
    return false;
}
