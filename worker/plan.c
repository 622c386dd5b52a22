/* worker/plan.c - `plan RUN.yaml`: how much memory a worker of the run will need, and for what.
 *
 * The model and the trainer are opened over a device that only counts (worker/ops/dry.h) and do the
 * longest micro-batch, so that the figures come from the code that will allocate. Memory that
 * is not the device's is added: this process at that point (the same program with its libraries, tokenizer
 * and compiled products) and the micro-batches that wait. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/data/captions.h"
#include "common/arguments.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/size.h"
#include "worker/commands.h"
#include "worker/model/llm.h"
#include "worker/model/vision.h"
#include "worker/ops/dry.h"
#include "worker/options.h"
#include "worker/options_training.h"
#include "worker/rehearse.h"
#include "worker/trainer.h"

const char command_plan_usage[] =
    "usage: blipren-worker plan RUN.yaml [options]\n"
    "\n"
    "  --device D    cpu, cuda:N, cuda (any GPU, also where there is none), or auto\n"
    "  --longest N   tokens of the longest text: prefix, caption and EOS (data.max_tokens and "
    "max_trace_tokens)\n"
    "  --threads N   compute threads (all cores)\n"
    "  --json        one line of JSON, in bytes\n"
    "\n"
    "Prints how much memory a worker of the run needs, and for what. Reads the models' headers, "
    "not "
    "their weights.\n";

enum { LINES_MAX = 16 };

/* Measured: two pieces of 1 MiB of the all-reduce, the rest is buffers and stacks of threads. */
#define WIRE_BYTES INT64_C(13000000)
/* A guess until it has been measured on a device: CUDA's context, the code of cuBLASLt and NCCL and its buffers. */
#define CONTEXT_BYTES INT64_C(1000000000)
#define PINNED_BYTES INT64_C(32 << 20) /* a queue's ring of copies, CUDA_RING_PARTS of them */

/* Where a line's memory is. On a CPU all of it is the host's. */
enum place { HOST, GPU };

struct plan {
    struct {
        const char *what;
        enum place place;
        int64_t bytes;
    } lines[LINES_MAX];
    int count;
    int64_t trainable, checkpoint;
    int64_t optional;  /* of a GPU: what is taken only where there is room */
    int64_t gpu_total; /* what the GPU has; 0: unknown, or there is none */
    enum place place;  /* of what the device allocates */
    const char *device;
};

static void add_to(struct plan *plan, enum place place, const char *what, int64_t bytes)
{
    BL_ASSERT(plan->count < LINES_MAX);
    plan->lines[plan->count].what = what;
    plan->lines[plan->count].place = place;
    plan->lines[plan->count++].bytes = bytes;
}

static void add(struct plan *plan, const char *what, int64_t bytes)
{
    add_to(plan, plan->place, what, bytes);
}

static int64_t in_use(const struct ops *ops)
{
    struct ops_usage usage;
    int64_t sum = 0;
    ops_dry_usage(ops, &usage);
    for (int i = 0; i < OPS_USES; i++)
        sum += usage.bytes[i];
    return sum;
}

/* Bytes of this process that are in memory; 0: unknown. */
static int64_t resident(void)
{
    long long pages = 0;
    FILE *in = fopen("/proc/self/statm", "r");
    if (!in || fscanf(in, "%*d %lld", &pages) != 1)
        pages = 0;
    if (in)
        fclose(in);
    return pages * sysconf(_SC_PAGESIZE);
}

/* -- the parts -- */

/* Either frozen model opened alone, so that each has its line. */
static int plan_frozen(struct plan *plan, struct ops *ops, const struct captioner_options *options,
                       struct bl_error *err)
{
    const int64_t before = in_use(ops);
    struct hf_vision vision_config;
    struct hf_llm llm_config;
    struct hf_preprocess preprocess;
    bl_auto(vision) struct vision *vision = NULL;
    bl_auto(llm) struct llm *llm = NULL;
    BL_TRY(hf_vision_open(options->vision, &vision_config, err));
    BL_TRY(hf_preprocess_open(options->vision, &vision_config, &preprocess, err));
    BL_TRY(hf_llm_open(options->llm, &llm_config, err));
    BL_TRY(vision_open(ops, options->vision, &vision_config, &preprocess,
                       options->projector == CAPTIONER_MOE && options->routing == CAPTIONER_POOLED,
                       options->images_alone, &vision, err));
    int64_t both = in_use(ops);
    BL_TRY(llm_open(ops, options->llm, &llm_config, &llm, err));
    add(plan, "frozen vision tower", both - before);
    add(plan, "frozen language model", in_use(ops) - both);
    return 0;
}

static int plan_ahead(struct plan *plan, struct ops *ops, struct captioner *captioner, int64_t B,
                      struct bl_error *err)
{
    const int64_t before = in_use(ops);
    BL_TRY(captioner_open_ahead(captioner, B, err));
    plan->optional = in_use(ops) - before;
    add(plan, "vision tower of the next micro-batch, where there is room", plan->optional);
    return 0;
}

/* What is allocated besides the frozen models, which take `frozen` bytes. */
static int plan_trained(struct plan *plan, struct ops *ops, const struct config *config,
                        const struct captioner_options *options, int64_t frozen, int64_t longest,
                        struct bl_error *err)
{
    struct ops_usage before, after;
    bl_auto(captioner) struct captioner *captioner = NULL;
    bl_auto(trainer) struct trainer *trainer = NULL;
    struct trainer_options training = options_trainer(config);
    BL_TRY(captioner_open(ops, options, &captioner, err));
    int64_t opened = in_use(ops);
    const int64_t count = captioner_params(captioner)->count,
                  bytes = count * (int64_t)sizeof(float);
    add(plan, "trainable parameters", opened - frozen - bytes);
    add(plan, "gradients", bytes);
    BL_TRY(trainer_open(ops, captioner, &training, &trainer, err));
    add(plan, "optimizer and sums", in_use(ops) - opened);
    /* A longer text is refused before it reaches a worker. */
    longest =
        bl_min(longest, captioner_llm(captioner)->positions_max - config->qformer.queries - 1);
    const int64_t B = options_micro_batch(config), side = captioner_vision(captioner)->image_size;
    ops_dry_usage(ops, &before);
    BL_TRY(rehearse(captioner, B, longest, false, err));
    ops_dry_usage(ops, &after);
    add(plan, "activations of the longest micro-batch",
        after.bytes[OPS_ARRAYS] - before.bytes[OPS_ARRAYS]);
    add(plan, "logits and other working memory", after.bytes[OPS_SCRATCH]);
    if (options_tower_ahead(config, ops))
        BL_TRY(plan_ahead(plan, ops, captioner, B, err));
    plan->checkpoint = bytes * (training.ema > 0 ? 4 : 3); /* values, two moments, their average */
    plan->trainable = 0;
    for (int64_t i = 0; i < captioner_params(captioner)->tensors; i++)
        plan->trainable += captioner_params(captioner)->at[i].count;

    int64_t sample = side * side * 3 + longest * (int64_t)(sizeof(int32_t) + 1);
    add_to(plan, HOST, "micro-batches received", (config->cluster.window + 1) * B * sample);
    add_to(plan, HOST, "sockets, communicator, checkpoint writer", WIRE_BYTES);
    return 0;
}

/* Tokens of the longest text that the configuration allows: prefix, caption and EOS. */
static int longest_allowed(const struct config *config, const struct tokenizer *tokenizer,
                           int64_t *ret, struct bl_error *err)
{
    int64_t longest = 0;
    for (int i = 0; i < (int)config->data.captions.count; i++) {
        const char *prefix = config->data.captions.at[i].prefix;
        struct token_ids ids = {0};
        int rc = tokenizer_encode(tokenizer, prefix, strlen(prefix), false, &ids, err);
        longest = bl_max(longest, (int64_t)ids.count);
        token_ids_release(&ids);
        BL_TRY(rc);
    }
    *ret = longest + caption_tokens_max(&config->data) + 1;
    return 0;
}

static int make_plan(struct plan *plan, const struct config *config, const char *device,
                     int threads, int64_t longest, struct ops **ops, struct bl_error *err)
{
    bl_auto(tokenizer) struct tokenizer *tokenizer = NULL;
    BL_TRY(tokenizer_open(config->llm.path, &tokenizer, err));
    if (!longest)
        BL_TRY(longest_allowed(config, tokenizer, &longest, err));
    BL_TRY(ops_dry_open(device, options_precision(config), threads, ops, &plan->gpu_total, err));
    (*ops)->times_products = !config->train.reproducible;
    struct captioner_options options = options_captioner(config, options_bos(tokenizer));
    plan->device = (*ops)->name;
    plan->place = strncmp(plan->device, "cuda", 4) == 0 ? GPU : HOST;
    const int64_t opened = in_use(*ops); /* a GPU's workspace */
    BL_TRY(plan_frozen(plan, *ops, &options, err));
    int64_t frozen = opened + plan->lines[0].bytes + plan->lines[1].bytes;
    BL_TRY(plan_trained(plan, *ops, config, &options, frozen, longest, err));
    if (plan->place == GPU) {
        add(plan, "CUDA and its libraries, a guess", opened + CONTEXT_BYTES);
        add_to(plan, HOST, "copies on their way to the GPU",
               (plan->optional ? 2 : 1) * PINNED_BYTES);
    }
    add_to(plan, HOST, "the process itself", resident());
    return 0;
}

/* -- printing -- */

static int64_t total(const struct plan *plan, enum place place)
{
    int64_t sum = 0;
    for (int i = 0; i < plan->count; i++)
        sum += plan->lines[i].place == place ? plan->lines[i].bytes : 0;
    return sum;
}

static int64_t gpu_needed(const struct plan *plan)
{
    return total(plan, GPU) - plan->optional;
}

static void print_json(const struct plan *plan)
{
    static const char *const places[] = {[HOST] = "host", [GPU] = "gpu"};
    json_t *lines = json_array();
    for (int i = 0; i < plan->count; i++)
        json_array_append_new(lines, json_pack("{s:s, s:s, s:I}", "what", plan->lines[i].what,
                                               "place", places[plan->lines[i].place], "bytes",
                                               (json_int_t)plan->lines[i].bytes));
    bl_autojson json_t *page = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "device", plan->device, "peak",
        (json_int_t)total(plan, HOST), "gpu_peak", (json_int_t)total(plan, GPU), "gpu_needed",
        (json_int_t)gpu_needed(plan), "gpu_total", (json_int_t)plan->gpu_total, "trainable",
        (json_int_t)plan->trainable, "checkpoint", (json_int_t)plan->checkpoint, "lines", lines);
    bl_autofree char *text = json_dumps(page, JSON_COMPACT);
    puts(text ? text : "{}");
}

static void print_place(const struct plan *plan, enum place place, const char *where)
{
    for (int i = 0; i < plan->count; i++)
        if (plan->lines[i].place == place && plan->lines[i].bytes)
            printf("%10.3f GB  %s\n", (double)plan->lines[i].bytes / 1e9, plan->lines[i].what);
    printf("%10.3f GB  in total%s, at most\n", (double)total(plan, place) / 1e9, where);
}

static void print_table(const struct plan *plan)
{
    printf("%s\n", plan->device);
    if (plan->place == GPU)
        print_place(plan, GPU, " on the GPU");
    print_place(plan, HOST, plan->place == GPU ? " of the host" : "");
}

/* A plan that does not fit the GPU at hand fails; what the host has is `check`'s to say. */
static int judge(const struct plan *plan, struct bl_error *err)
{
    if (!plan->gpu_total || gpu_needed(plan) <= plan->gpu_total)
        return 0;
    bl_fail(err, BL_ENOMEM, "a worker needs %.1f GB of a GPU that has %.1f GB",
            (double)gpu_needed(plan) / 1e9, (double)plan->gpu_total / 1e9);
    return bl_error_remedy(
        err,
        "lower train.micro_batch, data.max_tokens or the Q-Former's size, or set train.recompute");
}

int command_plan(int argc, char **argv, struct bl_error *err)
{
    int64_t threads = 0, longest = 0;
    const char *device = NULL;
    bool json = false;
    int rest;
    const struct argument table[] = {
        {"--device", ARGUMENT_TEXT, &device, 0, 0},
        {"--longest", ARGUMENT_WHOLE, &longest, 0, 1 << 20},
        {"--threads", ARGUMENT_WHOLE, &threads, 0, 4096},
        {"--json", ARGUMENT_FLAG, &json, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest != 1) {
        bl_fail(err, BL_EUSAGE, "expected one RUN.yaml");
        return bl_error_remedy(err, "--help says how this program is used");
    }
    bl_auto(config) struct config *config = NULL;
    BL_TRY(config_open(argv[1], &config, err));
    struct plan plan = {0};
    bl_auto(ops) struct ops *ops = NULL;
    BL_TRY(make_plan(&plan, config, device, (int)threads, longest, &ops, err));
    if (json) {
        print_json(&plan);
        return 0;
    }
    print_table(&plan);
    return judge(&plan, err);
}
