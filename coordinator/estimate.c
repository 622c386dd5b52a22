/* coordinator/estimate.c - see estimate.h. */
#include "coordinator/estimate.h"

#include <stdio.h>
#include <string.h>

#include "common/models/hf_tensors.h"
#include "common/size.h"

static int64_t linear(int64_t in, int64_t out)
{
    return in * out + out;
}

static int64_t norm(int64_t width)
{
    return 2 * width;
}

/* Packed query, key and value, and the output. */
static int64_t attention(int64_t d)
{
    return linear(d, 3 * d) + linear(d, d);
}

static int64_t mlp(int64_t d)
{
    return linear(d, 4 * d) + linear(4 * d, d);
}

int64_t estimate_trainable(const struct config *config, const struct hf_vision *vision,
                           const struct hf_llm *llm)
{
    const struct config_qformer *q = &config->qformer;
    int64_t D = llm->hidden, d = q->width ? q->width : D, d_v = vision->hidden;
    int64_t expert = norm(D) + mlp(D) + norm(D);
    int64_t sum = q->queries * d + linear(d_v, d) + norm(d);
    sum += q->layers * (3 * norm(d) + 2 * attention(d) + mlp(d));
    if (d != D)
        sum += linear(d, D);
    if (config->projector.kind == CONFIG_NORMAL)
        return sum + expert;
    return sum + config->projector.experts * expert + norm(d_v) + linear(d_v, d_v / 2) +
           linear(d_v / 2, config->projector.experts);
}

static int64_t activations(const struct config *config, const struct hf_vision *vision,
                           const struct hf_llm *llm, int64_t B, int64_t longest, int64_t a)
{
    int64_t N = vision->tokens, K = config->qformer.queries, layers = config->qformer.layers;
    int64_t D = llm->hidden, d = config->qformer.width ? config->qformer.width : D;
    int64_t experts = config->projector.kind == CONFIG_MOE ? config->projector.experts : 1;
    int64_t h = llm->hidden, i = llm->intermediate, q = llm->heads * llm->head_dim,
            kv = llm->kv_heads * llm->head_dim, R = B * (K + longest + 1);
    int64_t sum = B * N *
                  (5 * vision->hidden + vision->intermediate +
                   vision->channels * vision->patch * vision->patch);
    sum += layers * (20 * B * K * d + 2 * B * N * d) + 5 * B * N * d + 12 * B * K * d;
    sum += 12 * experts * B * K * D;
    sum += R * (llm->layers * (2 * h + 2 * q + 2 * kv + 2 * i) + 3 * h + 4 * i + 2 * q + 2 * kv);
    return sum * a + 256 * llm->vocabulary * 8;
}

void estimate_run(const struct config *config, const struct hf_vision *vision,
                  const struct hf_llm *llm, int64_t longest, struct estimate *ret)
{
    const struct config_train *train = &config->train;
    bool bf16 = config->precision == CONFIG_BF16, ema = train->ema > 0;
    int64_t a = bf16 ? 2 : 4, B = train->reproducible ? train->grain : train->micro_batch;
    int64_t side = vision->image_size;
    struct estimate e = {
        .trainable_parameters = estimate_trainable(config, vision, llm),
        .frozen_parameters = hf_vision_parameters(vision, true) + hf_llm_parameters(llm),
    };
    int64_t each = 4 + 4 + 8 + 12 + (ema ? 8 : 0) + (train->reproducible ? 8 : 0) + (bf16 ? 4 : 0);
    e.frozen = e.frozen_parameters * a;
    e.trainable = e.trainable_parameters * each;
    e.activations = activations(config, vision, llm, B, longest, a);
    e.batches = config->cluster.window * B * (side * side * 3 + longest * 4);
    e.worker = (e.frozen + e.trainable + e.activations + e.batches) / 10 * 11;
    e.checkpoint = e.trainable_parameters * 4 * (ema ? 4 : 3);
    *ret = e;
}

/* -- this machine ----------------------------------------------------------------------------- */

static int64_t file_number(const char *path, const char *before)
{
    char line[256];
    long long value = 0;
    FILE *in = fopen(path, "r");
    if (!in)
        return 0;
    while (fgets(line, sizeof line, in))
        if (!strncmp(line, before, strlen(before)) &&
            sscanf(line + strlen(before), "%lld", &value) == 1)
            break;
    fclose(in);
    return value;
}

void estimate_memory(int64_t *ret_total, int64_t *ret_available)
{
    int64_t total = file_number("/proc/meminfo", "MemTotal:") * 1024;
    int64_t available = file_number("/proc/meminfo", "MemAvailable:") * 1024;
    int64_t limit = file_number("/sys/fs/cgroup/memory.max", "");
    int64_t used = file_number("/sys/fs/cgroup/memory.current", "");
    if (limit > 0 && (!total || limit < total)) {
        total = limit;
        available = bl_min(available, bl_max(limit - used, 0));
    }
    *ret_total = total;
    *ret_available = available;
}
