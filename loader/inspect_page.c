/* loader/inspect_page.c - see inspect_page.h. */
#include "loader/inspect_page.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/image/image.h"
#include "common/limits.h"
#include "common/picture/picture.h"
#include "common/size.h"
#include "common/utf8.h"

enum {
    THUMBNAIL = 112,      /* pixels of the longer side */
    THUMBNAILS_MAX = 160, /* on the page: about 20 kB each */
    KEPT_SHOWN = 24,
    TEXT_BYTES_MAX = 2000, /* of a caption, or of a trace */
    TOKENS_SHOWN = 400,
    BARS = 60
};

struct page {
    const struct inspected *in;
    FILE *out;
    int thumbnails;
};

static unsigned long long u(uint64_t n)
{
    return n;
}

/* -- texts ------------------------------------------------------------------------------------ */

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            putc(*text, out);
        }
}

/* As text on one line: cut, and without what would change the page or its order. */
static void put_text(FILE *out, const char *text, size_t size)
{
    char line[TEXT_BYTES_MAX + 1];
    bool cut = size >= sizeof line;
    size_t shown = cut ? sizeof line - 1 : size;
    memcpy(line, text, shown);
    line[shown] = 0;
    for (char *c = line; *c; c++)
        if (*c == '\n' || *c == '\r' || *c == '\t')
            *c = ' ';
    utf8_clean(line);
    put_escaped(out, line);
    fputs(cut ? " …" : "", out);
}

static void put_string(FILE *out, const char *text)
{
    put_text(out, text, strlen(text));
}

/* -- thumbnails ------------------------------------------------------------------------------- */

static int shrink(const struct image *image, struct picture *ret, struct bl_error *err)
{
    int64_t longer = bl_max(image->width, image->height);
    int64_t width = bl_max(1, image->width * THUMBNAIL / longer);
    int64_t height = bl_max(1, image->height * THUMBNAIL / longer);
    BL_TRY(picture_init(ret, width, height, COLOUR_WHITE, err));
    return image_resize(image, width, height, IMAGE_BILINEAR, ret->pixels, err);
}

static int make_thumbnail(const struct page *p, const struct location *location, uint8_t **ret,
                          size_t *ret_size, struct bl_error *err)
{
    const struct config_data *data = &p->in->config->data;
    bl_autofree char *bytes = NULL;
    bl_autoimage struct image image = {0};
    bl_autopicture struct picture picture = {0};
    size_t size = 0;
    BL_TRY(location_read(location, (size_t)data->max_image_bytes, &bytes, &size, NULL, err));
    BL_TRY(image_decode((const uint8_t *)bytes, size, data->max_pixels, &image, err));
    BL_TRY(shrink(&image, &picture, err));
    return picture_encode(&picture, ret, ret_size, err);
}

/* The image inside the page, or a word that there is none to show. */
static int put_thumbnail(struct page *p, const struct location *location, struct bl_error *err)
{
    bl_autofree uint8_t *png = NULL;
    size_t size = 0;
    struct bl_error why;
    if (p->thumbnails >= THUMBNAILS_MAX)
        return 0;
    if (make_thumbnail(p, location, &png, &size, &why) < 0) {
        fputs("<div class=none title=\"", p->out);
        put_string(p->out, why.text);
        fputs("\">no picture</div>", p->out);
        return 0;
    }
    size_t room = sodium_base64_ENCODED_LEN(size, sodium_base64_VARIANT_ORIGINAL);
    bl_autofree char *text = malloc(room);
    if (!text)
        return bl_fail(err, BL_ENOMEM, "no memory for a thumbnail");
    sodium_bin2base64(text, room, png, size, sodium_base64_VARIANT_ORIGINAL);
    fprintf(p->out, "<img alt=\"\" src=\"data:image/png;base64,%s\">", text);
    p->thumbnails++;
    return 0;
}

/* -- what became of samples and captions ------------------------------------------------------- */

/* Examples of one verdict and rule. */
static int put_examples(struct page *p, bool is_caption, uint32_t verdict, uint32_t rule,
                        struct bl_error *err)
{
    for (uint32_t i = 0; i < dataset_example_count(p->in->dataset); i++) {
        struct dataset_example example;
        dataset_example(p->in->dataset, i, &example);
        if (example.is_caption != is_caption || example.verdict != verdict || example.rule != rule)
            continue;
        fputs("<div class=example>", p->out);
        if (example.has_image)
            BL_TRY(put_thumbnail(p, &example.location, err));
        fputs("<p>", p->out);
        put_string(p->out, example.text);
        fputs("</p></div>\n", p->out);
    }
    return 0;
}

static void put_count(struct page *p, uint64_t count, uint64_t all, const char *what,
                      const char *key)
{
    fprintf(p->out, "<h3>%llu <small>(%.1f %%)</small> ", u(count),
            all ? 100 * (double)count / (double)all : 0);
    put_string(p->out, what);
    if (key) {
        fputs(" <code>", p->out);
        put_string(p->out, key);
        fputs("</code>", p->out);
    }
    fputs("</h3>\n", p->out);
}

static int put_samples(struct page *p, struct bl_error *err)
{
    const struct dataset *d = p->in->dataset;
    uint64_t all = 0;
    for (int v = 0; v < DATASET_VERDICT_COUNT; v++)
        all += dataset_sample_verdicts(d, (enum dataset_verdict)v);
    fprintf(p->out, "<h2>%llu samples</h2>\n", u(all));
    put_count(p, dataset_count(d, DATASET_TRAIN), all, "to train", NULL);
    put_count(p, dataset_count(d, DATASET_VALIDATION), all, "to validate", NULL);
    for (int v = DATASET_KEPT + 1; v < DATASET_VERDICT_COUNT; v++) {
        enum dataset_verdict verdict = (enum dataset_verdict)v;
        if (!dataset_sample_verdicts(d, verdict))
            continue;
        put_count(p, dataset_sample_verdicts(d, verdict), all, dataset_verdict_words(verdict),
                  NULL);
        BL_TRY(put_examples(p, false, verdict, FILTERS_NONE, err));
    }
    return 0;
}

static void put_passed(struct page *p)
{
    const struct dataset *d = p->in->dataset;
    for (int kind = 0; kind < SOURCE_PASSED_COUNT; kind++) {
        const char *name;
        uint64_t count = dataset_passed(d, (enum source_passed)kind);
        if (!count)
            continue;
        fprintf(p->out, "<h3>%llu ", u(count));
        put_string(p->out, source_passed_words((enum source_passed)kind));
        fputs("</h3>\n<ul>\n", p->out);
        for (uint32_t i = 0; (name = dataset_passed_name(d, (enum source_passed)kind, i)); i++) {
            fputs("<li>", p->out);
            put_string(p->out, name);
            fputs("</li>\n", p->out);
        }
        fputs("</ul>\n", p->out);
    }
}

/* Each rule of a verdict's list, those without effect too. */
static int put_rules(struct page *p, enum caption_verdict verdict, uint64_t all,
                     struct bl_error *err)
{
    enum dataset_rules list = dataset_rules_of(verdict);
    char rule[300];
    for (uint32_t i = 0; list < DATASET_RULES_COUNT && i < BL_CONFIG_LIST_MAX &&
                         dataset_rule_text(p->in->config, list, i, rule, sizeof rule);
         i++) {
        put_count(p, dataset_rule_count(p->in->dataset, list, i), all,
                  verdict == CAPTION_KEPT ? "kept without their opening" : "dropped by", rule);
        BL_TRY(put_examples(p, true, verdict, i, err));
    }
    return 0;
}

static int put_captions(struct page *p, struct bl_error *err)
{
    const struct dataset *d = p->in->dataset;
    uint64_t all = 0;
    for (int v = 0; v < CAPTION_VERDICT_COUNT; v++)
        all += dataset_caption_verdicts(d, (enum caption_verdict)v);
    fprintf(p->out, "<h2>%llu captions</h2>\n", u(all));
    put_count(p, dataset_caption_verdicts(d, CAPTION_KEPT), all, "kept", NULL);
    BL_TRY(put_rules(p, CAPTION_KEPT, all, err));
    for (int v = CAPTION_KEPT + 1; v < CAPTION_VERDICT_COUNT; v++) {
        enum caption_verdict verdict = (enum caption_verdict)v;
        if (dataset_caption_verdicts(d, verdict)) {
            put_count(p, dataset_caption_verdicts(d, verdict), all, caption_verdict_words(verdict),
                      caption_verdict_key(verdict));
            BL_TRY(put_examples(p, true, verdict, FILTERS_NONE, err));
        }
        BL_TRY(put_rules(p, verdict, all, err));
    }
    return 0;
}

/* -- lengths ---------------------------------------------------------------------------------- */

/* Bars of equal width over 1 to the longest; the numbers below are tokens. */
static void put_lengths(struct page *p)
{
    const struct dataset *d = p->in->dataset;
    const uint32_t longest = dataset_longest(d);
    const uint32_t width = (uint32_t)bl_ceil_div(longest ? longest : 1, BARS);
    uint64_t bars[BARS] = {0}, most = 1;
    if (!longest)
        return;
    for (uint32_t t = 1; t <= longest; t++)
        bars[(t - 1) / width] += dataset_length(d, t);
    for (int i = 0; i < BARS; i++)
        most = bars[i] > most ? bars[i] : most;
    fputs("<h2>Tokens of a kept caption</h2>\n<p>Prefix, trace and EOS included.</p>\n"
          "<svg viewBox=\"0 0 640 170\" role=img>\n",
          p->out);
    for (uint32_t i = 0; i < BARS && i * width < longest; i++) {
        double height = 140 * (double)bars[i] / (double)most;
        fprintf(p->out,
                "<rect x=%.1f y=%.1f width=9 height=%.1f><title>%u to %u tokens: %llu "
                "captions</title></rect>\n",
                20 + 10.0 * i, 145 - height, height, i * width + 1, (i + 1) * width, u(bars[i]));
        if (i % 10 == 0)
            fprintf(p->out, "<text x=%.1f y=162>%u</text>\n", 20 + 10.0 * i, i * width + 1);
    }
    fprintf(p->out, "<text x=20 y=12>%llu</text></svg>\n", u(most));
}

/* -- token by token --------------------------------------------------------------------------- */

static int put_token(struct page *p, const char *mark, int32_t id, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    BL_TRY(tokenizer_decode(p->in->tokenizer, &id, 1, false, &text, err));
    fprintf(p->out, "<span class=%s title=\"%s, id %d\">", mark, mark, (int)id);
    if (*text == '\n')
        fputs("⏎", p->out);
    put_string(p->out, text);
    fputs("</span>", p->out);
    return 0;
}

static const char *mark_of(const struct caption_encoded *encoded, size_t t)
{
    if (t >= encoded->label_first && t < encoded->label_end)
        return "label";
    return t < encoded->prompt ? "prefix" : t < encoded->caption_first ? "trace" : "text";
}

static int put_caption(struct page *p, uint64_t id, struct bl_error *err)
{
    __attribute__((cleanup(token_ids_release))) struct token_ids ids = {0};
    struct dataset_sample sample;
    struct dataset_caption caption;
    struct caption_encoded encoded;
    char place[4096];
    dataset_sample(p->in->dataset, id, &sample);
    dataset_caption(p->in->dataset, id, 0, &caption);
    location_describe(&sample.location, place, sizeof place);
    const struct caption_text text = dataset_caption_text(&caption);
    BL_TRY(caption_rules_encode(p->in->rules, &text, &ids, &encoded, err));
    fputs("<div class=example>", p->out);
    BL_TRY(put_thumbnail(p, &sample.location, err));
    fprintf(p->out, "<div><p><small>sample %llu, %s, %u tokens, captions: %u, ", u(id),
            sample.split == DATASET_TRAIN ? "train" : "validation", caption.tokens,
            sample.caption_count);
    put_string(p->out, place);
    fputs("</small></p><p class=tokens>", p->out);
    for (size_t t = 0; t < ids.count && t < TOKENS_SHOWN; t++)
        BL_TRY(put_token(p, mark_of(&encoded, t), ids.ids[t], err));
    fputs(ids.count > TOKENS_SHOWN ? " …</p></div></div>\n" : "</p></div></div>\n", p->out);
    return 0;
}

/* Samples spread evenly over the data set. */
static int put_kept(struct page *p, struct bl_error *err)
{
    uint64_t count = dataset_samples(p->in->dataset);
    uint64_t shown = count < KEPT_SHOWN ? count : KEPT_SHOWN;
    fputs("<h2>What is trained, token by token</h2>\n<p><span class=label>trained</span> "
          "<span class=prefix>prefix</span> <span class=trace>trace</span> <span "
          "class=text>caption that is not trained</span></p>\n",
          p->out);
    for (uint64_t i = 0; i < shown; i++)
        BL_TRY(put_caption(p, count * i / shown, err));
    return 0;
}

/* -- the page --------------------------------------------------------------------------------- */

static void put_head(struct page *p)
{
    fputs("<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n"
          "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
          "style-src 'unsafe-inline'\">\n<meta name=viewport content=\"width=device-width\">\n"
          "<title>blipren-loader inspect</title>\n<style>\n"
          "body{font:15px/1.5 sans-serif;color:#202228;max-width:60em;margin:2em auto;padding:0 "
          "1em}\nh3{font-size:1em;margin:1.2em 0 .3em}\nsmall{color:#7a7e86}\n"
          "code{background:#eef0f3;padding:0 .3em}\n"
          ".example{display:flex;align-items:flex-start;margin:.4em 0}\n"
          ".example p{margin:0 0 .3em;overflow-wrap:anywhere}\n"
          ".example img{width:112px;height:auto;flex:none;margin-right:.8em}\n"
          "td,th{text-align:left;padding-right:1em;overflow-wrap:anywhere}"
          ".none{width:112px;flex:none;margin-right:.8em;color:#7a7e86;background:#eef0f3;text-"
          "align:center}\n"
          ".tokens span{white-space:pre-wrap;border-left:1px solid #fff}\n"
          ".label{background:#cfe9df}.prefix{background:#e2e4e8}.trace{background:#f5e3c8}"
          ".text{background:#f6d9d2}\nsvg{width:100%;max-width:640px}rect{fill:#00865c}"
          "text{font-size:11px;fill:#7a7e86}\n</style></head><body>\n<h1>",
          p->out);
    put_string(p->out, p->in->config->data.sources.at[0].source);
    if (p->in->config->data.sources.count > 1)
        fprintf(p->out, " and %zu more", p->in->config->data.sources.count - 1);
    fputs("</h1>\n", p->out);
}

/* What each source of a list gives. */
static void put_sources(struct page *p)
{
    const struct config_sources *sources = &p->in->config->data.sources;
    const struct dataset *d = p->in->dataset;
    if (!sources->written)
        return;
    fputs("<table>\n<tr><th>source<th>to train<th>to validate<th>weight<th>draws of an epoch\n",
          p->out);
    for (uint32_t of = 0; of < sources->count; of++) {
        fputs("<tr><td>", p->out);
        put_string(p->out, sources->at[of].source);
        fprintf(p->out, "<td>%llu<td>%llu<td>%g<td>%llu\n",
                u(dataset_source_samples(d, of, DATASET_TRAIN)),
                u(dataset_source_samples(d, of, DATASET_VALIDATION)), sources->at[of].weight,
                u(dataset_draws(p->in->config, d, of)));
    }
    fputs("</table>\n", p->out);
}

static int put_page(struct page *p, struct bl_error *err)
{
    put_head(p);
    put_sources(p);
    BL_TRY(put_samples(p, err));
    put_passed(p);
    BL_TRY(put_captions(p, err));
    put_lengths(p);
    BL_TRY(put_kept(p, err));
    fputs("</body></html>\n", p->out);
    return 0;
}

int inspect_page_write(const struct inspected *inspected, const char *path, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size = 0;
    struct page page = {.in = inspected, .out = open_memstream(&text, &size)};
    if (!page.out)
        return bl_fail(err, BL_ENOMEM, "no memory for a page");
    int rc = put_page(&page, err);
    if (fclose(page.out) && rc == 0)
        rc = bl_fail(err, BL_ENOMEM, "no memory for a page");
    return rc < 0 ? rc : bl_file_write(path, text, size, err);
}
