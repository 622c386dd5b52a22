/* tests/tools/step_speed.c - what the parts of a training step cost.
 *
 *     step_speed OPTIONS.json INPUT.safetensors      (model_input.h)
 *
 * Runs each part that a line of the standard input names, so that who asks may do something else in
 * between: the vision tower (`vision`), a step from its features, forward and backward (`step`), scoring
 * (`score`), max_new greedy tokens (`captions`). Answers each with a JSON line: seconds on the clock, processor
 * seconds of all threads, the last step's loss sum (to be compared with another implementation's), peak memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "tests/tools/model_input.h"

struct bench {
    struct captioner *c;
    struct micro_batch pixels, features, prompts;
    float *encoded, *pooled;
    int32_t max_new;
    double nll; /* of the last step */
};

static int run_vision(struct bench *b, struct bl_error *err)
{
    return captioner_encode(b->c, b->pixels.B, b->pixels.pixels, b->encoded, b->pooled, err);
}

static int run_step(struct bench *b, struct bl_error *err)
{
    struct captioner_sums sums;
    captioner_step_begin(b->c);
    BL_TRY(captioner_forward_backward(b->c, &b->features, &(const struct captioner_pass){0}, err));
    BL_TRY(captioner_step_sums(b->c, &sums, err));
    b->nll = sums.nll;
    return 0;
}

static int run_score(struct bench *b, struct bl_error *err)
{
    bl_autofree struct captioner_score *scores = calloc((size_t)b->pixels.B, sizeof *scores);
    BL_ASSERT(scores);
    return captioner_evaluate(b->c, &b->features, scores, NULL, NULL, err);
}

static int run_captions(struct bench *b, struct bl_error *err)
{
    struct captioner_generation how = {.max_new = b->max_new, .beams = 1, .top_p = 1};
    bl_autofree struct captioner_caption *captions = calloc((size_t)b->pixels.B, sizeof *captions);
    bl_autofree int32_t *ids = calloc((size_t)(b->pixels.B * b->max_new), sizeof *ids);
    BL_ASSERT(captions && ids);
    for (int64_t i = 0; i < b->pixels.B; i++)
        captions[i].ids = ids + i * b->max_new;
    return captioner_generate(b->c, &b->prompts, &how, captions, err);
}

static const struct {
    const char *name;
    int (*run)(struct bench *b, struct bl_error *err);
} parts[] = {
    {"vision", run_vision}, {"step", run_step}, {"score", run_score}, {"captions", run_captions}};

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* getrusage would count what the process that started this one held before exec. */
static long peak_memory_mb(void)
{
    bl_autofclose FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long kb = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &kb) == 1)
            break;
    return kb / 1024;
}

static int measure(struct bench *b, const char *name, struct bl_error *err)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(parts[i].name, name) != 0)
            continue;
        double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        BL_TRY(parts[i].run(b, err));
        printf("{\"wall_s\": %.6f, \"cpu_s\": %.6f, \"nll\": %.6f, \"peak_mb\": %ld}\n",
               seconds(CLOCK_MONOTONIC) - wall, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, b->nll,
               peak_memory_mb());
        fflush(stdout);
        return 0;
    }
    return bl_fail(err, BL_EUSAGE, "expected vision, step, score or captions, found %s", name);
}

static int bench(const char *options, const char *input_path, struct bl_error *err)
{
    __attribute__((cleanup(model_input_close))) struct model_input input = {0};
    BL_TRY(model_input_open(options, input_path, &input, err));
    const struct hf_vision *v = captioner_vision(input.c);
    int64_t B = input.texts.B;
    bl_autofree float *encoded = calloc((size_t)(B * v->tokens * v->hidden), sizeof *encoded);
    bl_autofree float *pooled = calloc((size_t)(B * v->hidden), sizeof *pooled);
    BL_ASSERT(encoded && pooled);
    struct bench b = {.c = input.c,
                      .pixels = input.texts,
                      .features = input.texts,
                      .prompts = input.prompts,
                      .encoded = encoded,
                      .pooled = pooled,
                      .max_new = (int32_t)input.max_new};
    b.features.pixels = b.prompts.pixels = NULL;
    b.features.features = b.prompts.features = encoded;
    b.features.pooled = b.prompts.pooled = pooled;
    char name[32];
    while (scanf("%31s", name) == 1)
        BL_TRY(measure(&b, name, err));
    return 0;
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    if (argc != 3)
        bl_fail(&err, BL_EUSAGE, "usage: step_speed OPTIONS.json INPUT.safetensors < PARTS");
    else
        bench(argv[1], argv[2], &err);
    if (!err.code)
        return 0;
    char line[1600];
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "step_speed: %s\n", line);
    return bl_error_exit_code(err.code);
}
