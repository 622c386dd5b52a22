/* worker/caption.c - `blipren-worker caption`: images in, captions out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/data/captions.h"
#include "common/cleanup.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/size.h"
#include "worker/commands.h"
#include "worker/inference.h"
#include "worker/options.h"
#include "worker/attention_map.h"
#include "worker/caption_input.h"
#include "worker/caption_output.h"
#include "worker/caption_trace.h"

#define BATCH_IMAGES 16
#define PROMPT_TOKENS_MAX 4096

const char command_caption_usage[] =
    "usage: blipren-worker caption --checkpoint DIR [options] IMAGE|FOLDER...\n"
    "\n"
    "A folder means all images in it and below.\n"
    "\n"
    "  --checkpoint DIR   a folder RUN/checkpoints/step-...\n"
    "  --prefix TEXT      text before the caption (the first prefix of the run)\n"
    "  --beam N           beam search over N candidates (1: the most likely token each time)\n"
    "  --temperature T    sample at this temperature instead of searching (0: off)\n"
    "  --top-p P          with --temperature: sample from the likeliest tokens that have this "
    "probability in all (1)\n"
    "  --seed N           seed of the sampling (0)\n"
    "  --max-new N        most tokens in a caption (the run's train.max_new_tokens)\n"
    "  --max-trace N      where captions have traces: most tokens in a trace, not counted by "
    "--max-new (0: they are)\n"
    "  --show-trace       print the trace before the caption, which is otherwise cut; with --json, "
    "as trace\n"
    "  --json             print a line of JSON for each image: file_name, caption, token_ids, "
    "ended\n"
    "  --list FILE        more images: on each line a path, or JSON with file_name\n"
    "  --out FILE.jsonl   append such lines to FILE, for the images that it does not have yet: to "
    "resume, run\n"
    "                     the same command again\n"
    "  --attention PNG    draw the cross-attention of chosen queries beside each image\n"
    "  --queries LIST     which queries, as 0,1,2,3 (the first four)\n"
    "  --ema              use the averaged weights\n"
    "  --vision DIR, --llm DIR   where the frozen models are now\n"
    "  --precision bf16|f32      of frozen weights and products (the run's)\n"
    "  --device auto|cpu|cuda:N  where to compute (auto: the first GPU, else the CPU)\n"
    "  --threads N               compute threads of the CPU (all cores)\n";

struct caption_job {
    struct inference in;
    struct captioner_generation how;
    int32_t eos[8];
    struct token_ids prompt;
    struct caption_trace_end trace;
    bool json, show_trace;
    struct attention_map *map; /* NULL: none */
    struct caption_input input;
    size_t *wanted; /* of its paths: those to caption now */
    size_t wanted_count;
    struct caption_output output;
    char settings[17];
    int failures;
};

/* -- one batch -- */

/* A line stays one line, whatever a file's name holds and the model says. trace NULL: it is not shown. */
static void print_line(const char *path, const char *trace, const char *text, bool ended)
{
    const char *parts[] = {path, trace, text};
    for (int i = 0; i < 3; i++) {
        for (const char *c = parts[i]; c && *c; c++)
            putchar((unsigned char)*c < 0x20 ? ' ' : *c);
        if (i < 2 && parts[i])
            putchar('\t');
    }
    puts(ended ? "" : " […]");
}

static int print_failure(struct caption_job *job, const char *path, const struct bl_error *error,
                         struct bl_error *err)
{
    char line[1600];
    job->failures++;
    if (!job->json) {
        bl_log_error(error);
        return 0;
    }
    bl_error_format(error, line, sizeof line);
    return caption_output_put(
        &job->output,
        json_pack("{s:o, s:o}", "file_name", bl_json_text(path), "error", bl_json_text(line)), err);
}

static int print_caption(struct caption_job *job, const char *path,
                         const struct captioner_caption *c, const char *trace, const char *text,
                         struct bl_error *err)
{
    if (!job->json) {
        print_line(path, job->show_trace ? trace : NULL, text, c->ended);
        return 0;
    }
    json_t *ids = json_array();
    for (int32_t i = 0; i < c->count; i++)
        json_array_append_new(ids, json_integer(c->ids[i]));
    json_t *line = json_pack("{s:o, s:o, s:o, s:b}", "file_name", bl_json_text(path), "caption",
                             bl_json_text(text), "token_ids", ids, "ended", c->ended);
    if (job->show_trace && line)
        BL_TRY(bl_json_put(line, "trace", bl_json_text(trace), err));
    return caption_output_put(&job->output, line, err);
}

/* Images in their order; those that could be read have pixels, one after the other. */
struct caption_batch {
    const size_t *wanted; /* count of the job's */
    int count;
    struct bl_error failures[BATCH_IMAGES]; /* code 0: it could be read */
    int64_t B;                              /* that many */
    uint8_t *pixels;
    int32_t positions[BATCH_IMAGES];
};

static void read_images(struct caption_job *job, struct caption_batch *batch, size_t image_bytes)
{
    batch->B = 0;
    for (int i = 0; i < batch->count; i++) {
        batch->failures[i].code = 0;
        if (inference_image(&job->in, job->input.paths[batch->wanted[i]],
                            batch->pixels + (size_t)batch->B * image_bytes,
                            &batch->failures[i]) == 0)
            batch->positions[batch->B++] = (int32_t)batch->wanted[i];
    }
}

/* One caption for each image that could be read, into `captions`, whose ids the caller has. */
static int generate(struct caption_job *job, const struct caption_batch *batch,
                    struct captioner_caption *captions, struct bl_error *err)
{
    int32_t ids[BATCH_IMAGES * PROMPT_TOKENS_MAX], ids_start[BATCH_IMAGES + 1] = {0};
    size_t prompt = job->prompt.count;
    for (int64_t b = 0; b < batch->B; b++) {
        if (prompt)
            memcpy(ids + (size_t)b * prompt, job->prompt.ids, prompt * sizeof *ids);
        ids_start[b + 1] = (int32_t)((size_t)(b + 1) * prompt);
    }
    struct micro_batch mb = {.B = batch->B,
                             .pixels = batch->pixels,
                             .ids = ids,
                             .ids_start = ids_start,
                             .positions = batch->positions};
    BL_TRY(captioner_generate(job->in.captioner, &mb, &job->how, captions, err));
    return job->map ? attention_map_attend(job->map, job->in.captioner, &mb, err) : 0;
}

/* Prints the caption of image b of those that could be read. */
static int show_caption(struct caption_job *job, const struct caption_batch *batch, int64_t b,
                        const char *path, const struct captioner_caption *caption,
                        struct bl_error *err)
{
    bl_autofree char *trace = NULL, *text = NULL;
    BL_TRY(
        caption_trace_split(&job->trace, caption->ids, (size_t)caption->count, &trace, &text, err));
    BL_TRY(print_caption(job, path, caption, trace, text, err));
    return job->map ? attention_map_add(job->map, b, batch->pixels, path, text, err) : 0;
}

/* A line for each image, in their order. */
static int caption_batch(struct caption_job *job, const struct caption_batch *batch,
                         struct bl_error *err)
{
    struct captioner_caption captions[BATCH_IMAGES];
    int32_t max_new = job->how.max_trace + job->how.max_new;
    bl_autofree int32_t *new_ids =
        calloc((size_t)(batch->B + 1) * (size_t)max_new, sizeof *new_ids);
    if (!new_ids || job->prompt.count > PROMPT_TOKENS_MAX)
        return bl_fail(err, BL_ELIMIT, "a prompt of %zu tokens and %d new tokens are too many",
                       job->prompt.count, max_new);
    for (int64_t b = 0; b < batch->B; b++)
        captions[b] = (struct captioner_caption){.ids = new_ids + b * max_new};
    if (batch->B)
        BL_TRY(generate(job, batch, captions, err));
    int64_t b = 0;
    for (int i = 0; i < batch->count; i++) {
        const char *path = job->input.paths[batch->wanted[i]];
        if (batch->failures[i].code) {
            BL_TRY(print_failure(job, path, &batch->failures[i], err));
        } else {
            BL_TRY(show_caption(job, batch, b, path, &captions[b], err));
            b++;
        }
    }
    return 0;
}

static int caption_all(struct caption_job *job, struct bl_error *err)
{
    int64_t side = captioner_vision(job->in.captioner)->image_size;
    size_t image_bytes = (size_t)side * (size_t)side * 3;
    bl_autofree uint8_t *pixels = malloc(image_bytes * BATCH_IMAGES);
    struct caption_batch batch = {.pixels = pixels};
    if (!pixels)
        return bl_fail(err, BL_ENOMEM, "no memory for %d images", BATCH_IMAGES);
    for (size_t first = 0; first < job->wanted_count; first += (size_t)batch.count) {
        batch.wanted = job->wanted + first;
        batch.count = (int)bl_min((int64_t)(job->wanted_count - first), BATCH_IMAGES);
        read_images(job, &batch, image_bytes);
        BL_TRY(caption_batch(job, &batch, err));
        caption_output_progress(&job->output, (size_t)batch.count);
    }
    if (!job->failures)
        return 0;
    bl_fail(err, BL_EDATA, "%d of %zu images could not be captioned", job->failures,
            job->wanted_count);
    return bl_error_remedy(err, "each says why");
}

/* -- the command -- */

static int open_trace(struct caption_job *job, int64_t max_trace, struct bl_error *err)
{
    const struct config_caption *column = &job->in.config->data.captions.at[0];
    BL_TRY(caption_trace_open(&job->trace, job->in.tokenizer, column, err));
    job->how.max_trace = (int32_t)max_trace;
    job->how.close = job->trace.ids.ids;
    job->how.close_count = (int32_t)job->trace.ids.count;
    if (column->trace || (!max_trace && !job->show_trace))
        return 0;
    bl_fail(err, BL_EUSAGE, "the run's first captions have no trace");
    bl_error_remedy(err, "leave it out");
    return bl_error_key(err, max_trace ? "--max-trace" : "--show-trace");
}

static int open_job(struct caption_job *job, const struct inference_options *open,
                    const char *prefix, int64_t max_new, int64_t max_trace, struct bl_error *err)
{
    BL_TRY(inference_open(open, &job->in, err));
    const struct config *config = job->in.config;
    BL_TRY(options_eos(config, captioner_llm(job->in.captioner), job->in.tokenizer, job->eos,
                       &job->how.eos_count, err));
    job->how.eos = job->eos;
    job->how.max_new = (int32_t)(max_new ? max_new : config->train.max_new_tokens);
    BL_TRY(open_trace(job, max_trace, err));
    return caption_prompt(job->in.tokenizer,
                          caption_prefix_of(&config->data.captions.at[0], prefix), &job->prompt,
                          err);
}

static int open_input(struct caption_job *job, char **paths, int count, const char *list,
                      struct bl_error *err)
{
    for (int i = 0; i < count; i++)
        BL_TRY(caption_input_add(&job->input, paths[i], err));
    if (list)
        BL_TRY(caption_input_add_list(&job->input, list, err));
    if (job->input.count > INT32_MAX)
        return bl_fail(err, BL_ELIMIT, "expected at most %d images, found %zu", INT32_MAX,
                       job->input.count);
    job->wanted = calloc(job->input.count + 1, sizeof *job->wanted);
    return job->wanted ? 0 : bl_fail(err, BL_ENOMEM, "no memory for a list of images");
}

/* What a caption depends on, as 16 digits: a file of captions is of one such. */
static void digest_settings(struct caption_job *job, const struct inference_options *open,
                            const char *prefix)
{
    char text[8192], hex[65];
    uint8_t hash[32];
    const struct captioner_generation *how = &job->how;
    const struct config_caption *column = &job->in.config->data.captions.at[0];
    snprintf(text, sizeof text, "%s %d %s %d %g %g %llu %d %d %d %s|%s",
             job->in.state.weights_sha256, open->ema, open->precision ? open->precision : "",
             how->beams, (double)how->temperature, (double)how->top_p,
             (unsigned long long)how->seed, how->max_new, how->max_trace, job->show_trace,
             column->join, prefix ? prefix : column->prefix);
    bl_sha256(text, strlen(text), hash);
    bl_hex(hash, sizeof hash, hex);
    snprintf(job->settings, sizeof job->settings, "%.16s", hex);
}

/* Chooses the images that `out` has no caption of. */
static int open_output(struct caption_job *job, const char *out, struct bl_error *err)
{
    BL_TRY(caption_output_open(&job->output, out, job->settings, err));
    for (size_t i = 0; i < job->input.count; i++)
        if (!out || !caption_output_has(&job->output, job->input.paths[i]))
            job->wanted[job->wanted_count++] = i;
    job->output.total = job->wanted_count;
    if (job->wanted_count < job->input.count)
        bl_log(BL_LOG_INFO, "%zu of %zu images have a caption in %s already",
               job->input.count - job->wanted_count, job->input.count, out);
    return 0;
}

static int run_job(struct caption_job *job, const char *out, struct bl_error *err)
{
    struct bl_error closing;
    int rc = open_output(job, out, err);
    if (rc == 0)
        rc = caption_all(job, err);
    if (caption_output_close(&job->output, &closing) < 0 && (rc == 0 || rc == -BL_EDATA)) {
        *err = closing;
        rc = -closing.code;
    }
    return rc;
}

int command_caption(int argc, char **argv, struct bl_error *err)
{
    struct inference_options open = {0};
    struct caption_job job = {0};
    const char *prefix = NULL, *attention = NULL, *queries = "0,1,2,3", *list = NULL, *out = NULL;
    int64_t beam = 1, seed = 0, max_new = 0, max_trace = 0;
    double temperature = 0, top_p = 1;
    int rest;
    const struct argument table[] = {
        INFERENCE_ARGUMENTS(open),
        {"--prefix", ARGUMENT_TEXT, &prefix, 0, 0},
        {"--beam", ARGUMENT_WHOLE, &beam, 1, 64},
        {"--temperature", ARGUMENT_NUMBER, &temperature, 0, 100},
        {"--top-p", ARGUMENT_NUMBER, &top_p, 0, 1},
        {"--seed", ARGUMENT_WHOLE, &seed, 0, 1e15},
        {"--max-new", ARGUMENT_WHOLE, &max_new, 1, 4096},
        {"--max-trace", ARGUMENT_WHOLE, &max_trace, 0, BL_CAPTION_TOKENS_MAX},
        {"--show-trace", ARGUMENT_FLAG, &job.show_trace, 0, 0},
        {"--json", ARGUMENT_FLAG, &job.json, 0, 0},
        {"--list", ARGUMENT_TEXT, &list, 0, 0},
        {"--out", ARGUMENT_TEXT, &out, 0, 0},
        {"--attention", ARGUMENT_TEXT, &attention, 0, 0},
        {"--queries", ARGUMENT_TEXT, &queries, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (!open.checkpoint || (!rest && !list)) {
        bl_fail(err, BL_EUSAGE,
                open.checkpoint ? "expected at least one image" : "expected --checkpoint");
        return bl_error_remedy(err, "see caption --help");
    }
    if (beam > 1 && temperature > 0) {
        bl_fail(err, BL_EUSAGE, "expected --beam or --temperature, found both");
        return bl_error_remedy(err, "beam search does not sample");
    }
    if (top_p < 1 && temperature <= 0) {
        bl_fail(err, BL_EUSAGE, "expected --temperature with it, found none");
        bl_error_remedy(err, "give a temperature to sample, such as 1");
        return bl_error_key(err, "--top-p");
    }
    job.how = (struct captioner_generation){.beams = (int32_t)beam,
                                            .temperature = (float)temperature,
                                            .top_p = (float)top_p,
                                            .seed = (uint64_t)seed};
    job.json |= out != NULL;
    int rc = open_input(&job, argv + 1, rest, list, err);
    if (rc == 0)
        rc = open_job(&job, &open, prefix, max_new, max_trace, err);
    if (rc == 0 && attention)
        rc = attention_map_open(job.in.captioner, queries, &job.map, err);
    if (rc == 0) {
        digest_settings(&job, &open, prefix);
        rc = run_job(&job, out, err);
    }
    if (job.map && (rc == 0 || rc == -BL_EDATA)) {
        struct bl_error failure;
        if (attention_map_write(job.map, attention, &failure) < 0) {
            *err = failure;
            rc = -failure.code;
        }
    }
    attention_map_free(&job.map);
    caption_input_release(&job.input);
    free(job.wanted);
    token_ids_release(&job.prompt);
    caption_trace_release(&job.trace);
    inference_release(&job.in);
    return rc;
}
