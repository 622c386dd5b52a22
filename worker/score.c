/* worker/score.c - `blipren-worker score`: how likely given captions are under given images. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/data/captions.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"
#include "common/limits.h"
#include "worker/commands.h"
#include "worker/inference.h"
#include "worker/options.h"

const char command_score_usage[] =
    "usage: blipren-worker score --checkpoint DIR --pairs LIST.jsonl [options]\n"
    "\n"
    "  --pairs LIST   lines of JSON: file_name (relative to the list's folder), caption and, if "
    "wanted, prefix\n"
    "                 and trace, which is context\n"
    "  --prefix TEXT  for lines without one (the first prefix of the run)\n"
    "  --column NAME  what the captions are called in the lines (caption)\n"
    "  --without-image  add nll_without_image, of the language model alone, and gain, by how much "
    "less "
    "it is with\n"
    "                 the image: nats a token\n"
    "  --ema, --vision DIR, --llm DIR, --precision bf16|f32, --device NAME, --threads N   as for "
    "caption\n"
    "\n"
    "Prints the same lines with nll (nats, summed over caption and EOS) and tokens (their number); "
    "a line that\n"
    "cannot be scored gets error instead, and the exit code is then not 0.\n";

struct score_job {
    struct inference in;
    int32_t eos;
    const char *prefix, *column;
    bool without_image;
    char folder[4096]; /* of the list */
    uint8_t *pixels;
    struct token_ids ids;
};

/* A line of the list. Borrowed. */
struct pair {
    const char *file_name, *caption, *prefix, *trace; /* the last two may be NULL */
};

struct scores {
    struct captioner_score given, without; /* without: of the text alone, if that was asked for */
};

/* The ids of the pair's text in job->ids; *ret_first: where the caption begins. */
static int encode_pair(struct score_job *job, const struct pair *pair, size_t *ret_first,
                       struct bl_error *err)
{
    const struct config_caption *column = &job->in.config->data.captions.at[0];
    const struct caption_trace trace = {pair->trace, pair->trace ? strlen(pair->trace) : 0,
                                        column->open, column->close};
    enum caption_verdict verdict;
    if (pair->trace && !column->trace)
        return bl_fail(err, BL_EDATA, "it has a trace, and the run's first captions have none");
    job->ids.count = 0;
    BL_TRY(caption_encode(job->in.tokenizer,
                          caption_prefix_of(column, pair->prefix ? pair->prefix : job->prefix),
                          trace, pair->caption, strlen(pair->caption), job->eos, &job->ids,
                          ret_first, &verdict, err));
    return verdict == CAPTION_KEPT ? 0
                                   : bl_fail(err, BL_EDATA, "the caption cannot be scored: %s",
                                             caption_verdict_words(verdict));
}

/* The language model alone, with the same labels. Where nothing stands before the first of them, an EOS does, with which texts begin
 * that follow one another. */
static int score_text(struct score_job *job, size_t first, struct captioner_score *ret,
                      struct bl_error *err)
{
    size_t bos, added = 0;
    tokenizer_bos(job->in.tokenizer, &bos);
    if (!first && (!bos || job->in.config->llm.bos == CONFIG_BOS_NONE))
        added = 1;
    size_t count = job->ids.count + added;
    bl_autofree int32_t *ids = malloc(count * sizeof *ids);
    bl_autofree uint8_t *labels = malloc(count);
    if (!ids || !labels)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu labels", count);
    ids[0] = job->eos;
    memcpy(ids + added, job->ids.ids, job->ids.count * sizeof *ids);
    for (size_t i = 0; i < count; i++)
        labels[i] = i >= first + added;
    const struct micro_batch mb = {.B = 1,
                                   .text_only = true,
                                   .ids = ids,
                                   .ids_start = (int32_t[]){0, (int32_t)count},
                                   .labels = labels,
                                   .positions = (int32_t[]){0}};
    return captioner_evaluate(job->in.captioner, &mb, ret, NULL, NULL, err);
}

static int score_pair(struct score_job *job, const struct pair *pair, struct scores *ret,
                      struct bl_error *err)
{
    char path[4096];
    const char *file_name = pair->file_name;
    size_t first;
    if (*file_name != '/') {
        BL_TRY(bl_path_join(path, sizeof path, job->folder, file_name, err));
        file_name = path;
    }
    BL_TRY(inference_image(&job->in, file_name, job->pixels, err));
    BL_TRY(encode_pair(job, pair, &first, err));
    bl_autofree uint8_t *labels = malloc(job->ids.count);
    if (!labels)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu labels", job->ids.count);
    for (size_t i = 0; i < job->ids.count; i++)
        labels[i] = i >= first;
    const struct micro_batch mb = {.B = 1,
                                   .pixels = job->pixels,
                                   .ids = job->ids.ids,
                                   .ids_start = (int32_t[]){0, (int32_t)job->ids.count},
                                   .labels = labels,
                                   .positions = (int32_t[]){0}};
    BL_TRY(captioner_evaluate(job->in.captioner, &mb, &ret->given, NULL, NULL, err));
    if (job->without_image)
        BL_TRY(score_text(job, first, &ret->without, err));
    return isfinite(ret->given.nll) && isfinite(ret->without.nll)
               ? 0
               : bl_fail(err, BL_EDATA, "the loss is not finite: the weights hold NaN or inf");
}

static int put_scores(const struct score_job *job, json_t *line, const struct scores *scores,
                      struct bl_error *err)
{
    const struct captioner_score *given = &scores->given;
    BL_TRY(bl_json_put(line, "nll", bl_json_number(given->nll), err));
    BL_TRY(bl_json_put(line, "tokens", json_integer(given->tokens), err));
    if (!job->without_image)
        return 0;
    double gain = (scores->without.nll - given->nll) / given->tokens;
    BL_TRY(bl_json_put(line, "nll_without_image", bl_json_number(scores->without.nll), err));
    return bl_json_put(line, "gain", bl_json_number(gain), err);
}

/* Scores one line; a line that cannot be scored is printed with its error. */
static int score_line(struct score_job *job, json_t *line, bool *ret_failed, struct bl_error *err)
{
    const struct pair pair = {json_string_value(json_object_get(line, "file_name")),
                              json_string_value(json_object_get(line, job->column)),
                              json_string_value(json_object_get(line, "prefix")),
                              json_string_value(json_object_get(line, "trace"))};
    if (!pair.file_name || !pair.caption)
        return bl_fail(err, BL_EFORMAT, "expected the texts file_name and %.60s", job->column);
    struct scores scores = {0};
    struct bl_error failure;
    *ret_failed = score_pair(job, &pair, &scores, &failure) < 0;
    if (*ret_failed) {
        char text[1600];
        bl_error_format(&failure, text, sizeof text);
        BL_TRY(bl_json_put(line, "error", bl_json_text(text), err));
    } else {
        BL_TRY(put_scores(job, line, &scores, err));
    }
    bl_autofree char *out = NULL;
    BL_TRY(bl_json_line(line, 12, &out, err));
    puts(out);
    return 0;
}

static int score_list(struct score_job *job, const char *path, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size;
    int failed = 0, scored = 0, number = 0;
    BL_TRY(bl_file_read(path, BL_LIST_BYTES_MAX, &text, &size, err));
    for (char *at = text, *next; *at; at = next) {
        size_t length = strcspn(at, "\n");
        next = at + length + (at[length] == '\n');
        number++;
        if (strspn(at, " \t\r") >= length)
            continue;
        json_error_t wrong;
        json_t *line = json_loadb(at, length, JSON_REJECT_DUPLICATES, &wrong);
        bool bad = false;
        int rc = json_is_object(line) ? score_line(job, line, &bad, err)
                                      : bl_fail(err, BL_EFORMAT, "expected a JSON object: %s",
                                                line ? "" : wrong.text);
        json_decref(line);
        if (rc < 0) {
            bl_error_key(err, "line %d", number);
            bl_error_remedy(err,
                            "write {\"file_name\": \"a.jpg\", \"caption\": \"…\"} on each line");
            return bl_error_file(err, path);
        }
        failed += bad;
        scored += !bad;
    }
    BL_TRY(bl_output_finish(err));
    if (!failed && scored)
        return 0;
    bl_fail(err, BL_EDATA, "%d of %d lines could not be scored", failed, failed + scored);
    bl_error_remedy(err,
                    scored || failed ? "each says why" : "write lines of file_name and caption");
    return bl_error_file(err, path);
}

static int open_job(struct score_job *job, const struct inference_options *open, const char *prefix,
                    const char *pairs, struct bl_error *err)
{
    BL_TRY(inference_open(open, &job->in, err));
    const struct config *config = job->in.config;
    job->prefix = prefix;
    BL_TRY(caption_eos(&config->data, job->in.tokenizer, captioner_llm(job->in.captioner),
                       &job->eos, err));
    const char *slash = strrchr(pairs, '/');
    snprintf(job->folder, sizeof job->folder, "%.*s", slash ? (int)(slash - pairs) + 1 : 1,
             slash ? pairs : ".");
    int64_t side = captioner_vision(job->in.captioner)->image_size;
    job->pixels = malloc((size_t)side * (size_t)side * 3);
    return job->pixels ? 0 : bl_fail(err, BL_ENOMEM, "no memory for an image");
}

int command_score(int argc, char **argv, struct bl_error *err)
{
    struct inference_options open = {0};
    struct score_job job = {0};
    const char *prefix = NULL, *pairs = NULL;
    job.column = "caption";
    int rest;
    const struct argument table[] = {
        INFERENCE_ARGUMENTS(open),
        {"--pairs", ARGUMENT_TEXT, &pairs, 0, 0},
        {"--prefix", ARGUMENT_TEXT, &prefix, 0, 0},
        {"--column", ARGUMENT_TEXT, &job.column, 0, 0},
        {"--without-image", ARGUMENT_FLAG, &job.without_image, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (!open.checkpoint || !pairs || rest) {
        bl_fail(err, BL_EUSAGE,
                rest ? "unexpected argument %.100s" : "expected --checkpoint and --pairs",
                rest ? argv[1] : "");
        return bl_error_remedy(err, "score --help says how it is used");
    }
    int rc = open_job(&job, &open, prefix, pairs, err);
    if (rc == 0)
        rc = score_list(&job, pairs, err);
    free(job.pixels);
    token_ids_release(&job.ids);
    inference_release(&job.in);
    return rc;
}
