/* common/config/schema_model.c - keys of the frozen models and of what is trained between them. */
#include "common/config/parts.h"

#include "common/config/schema_rows.h"
#include "common/limits.h"

/* clang-format off */
static const struct config_key keys[] = {
    KEY("vision.path", CONFIG_PATH, vision.path, NULL,
        "Hugging Face folder of the vision encoder (SigLIP or ViT), or its name on the Hub: owner/name or owner/name@revision (docs/hub.md).", FREE, MODEL),

    KEY("llm.path", CONFIG_PATH, llm.path, NULL,
        "Hugging Face folder of the language model (Llama family), tokenizer.json included, or its name on the Hub.", FREE, MODEL),
    CHOICE("llm.bos", llm.bos, LIST("first", "after_image", "none"), "first",
        "Where the BOS token goes, if the tokenizer adds one: before the image's query positions, after them, or nowhere."),

    INT("qformer.width", qformer.width, 1, 65536, NULL, "auto",
        "Width of the Q-Former; auto is the language model's. A projection follows where they differ.", AUTO),
    INT("qformer.queries", qformer.queries, 1, 4096, NULL, "32",
        "Query vectors, which is also the number of positions an image takes in the language model."),
    INT("qformer.layers", qformer.layers, 1, 256, NULL, "8", "Blocks."),
    INT("qformer.heads", qformer.heads, 1, 1024, NULL, "8", "Attention heads; they divide the width."),
    REAL("qformer.dropout", qformer.dropout, 0, 0.99, NULL, "0.1", "Dropout probability in attention and MLP."),

    CHOICE("projector.kind", projector.kind, LIST("normal", "moe"), "normal",
        "normal: one residual MLP. moe: a mixture of experts, routed by image."),
    INT("projector.experts", projector.experts, 2, BL_EXPERTS_MAX, NULL, "4", "Experts of moe."),
    CHOICE("projector.routing", projector.routing, LIST("pooled", "mean", "first"), "pooled",
        "What moe's router looks at: the encoder's pooled vector, the mean of its patches, or its first token."),
    REAL("projector.dropout", projector.dropout, 0, 0.99, NULL, "0.1", "Dropout probability."),
    REAL("projector.balance", projector.balance, 0, 1000, NULL, "0.01",
        "Weight of moe's load-balancing loss over the global batch."),
    REAL("projector.router_z", projector.router_z, 0, 1000, NULL, "0.001", "Weight of moe's router z-loss."),
};
/* clang-format on */

static int check_model(struct reader *r)
{
    const struct config_qformer *qformer = &r->config->qformer;
    if (qformer->width % qformer->heads)
        return FAIL_KEY(r, "qformer.heads",
                        "expected a divisor of qformer.width (%lld), found %lld",
                        (long long)qformer->width, (long long)qformer->heads);
    return 0;
}

const struct config_room config_room_model = {
    .keys = keys,
    .count = sizeof keys / sizeof *keys,
    .check = check_model,
};
