/* coordinator/check.c - see check.h. One function a topic; each says what it looked at. */
#include "coordinator/check_parts.h"

#include <stdio.h>

#include "common/deadline.h"

static void check_all(struct check *c)
{
    check_ok(c, "config", "%s", c->yaml);
    check_vision(c);
    check_llm(c);
    check_tokenizer(c);
    check_qformer(c);
    check_address(c);
    check_data(c);
    check_images(c);
    check_positions(c);
    check_batches(c);
    if (c->config->train.steps) {
        check_schedule(c);
        check_init(c);
        check_resume(c);
    }
    check_memory(c);
    check_disk(c);
    check_loaders(c);
}

static double monotonic_s(void *none)
{
    return bl_now_s();
}

int check_run(const struct check_options *o, FILE *out, struct bl_error *err)
{
    struct check c = {.out = out,
                      .yaml = o->yaml,
                      .worker = o->worker,
                      .eos = -1,
                      .deep = o->deep,
                      .measure = o->measure,
                      .now_s = o->now_s ? o->now_s : monotonic_s,
                      .clock = o->context};
    struct config *config = NULL;
    struct bl_error wrong_config;
    if (check_passes(&c, "config", config_open(o->yaml, &config, &wrong_config), &wrong_config)) {
        c.config = c.unfinished = config;
        check_all(&c);
    }
    dataset_free(&c.dataset);
    tokenizer_free(&c.tokenizer);
    config_free(&config);
    fprintf(out, "%d error%s, %d warning%s\n", c.errors, c.errors == 1 ? "" : "s", c.warnings,
            c.warnings == 1 ? "" : "s");
    if (!c.errors)
        return 0;
    if (err)
        *err = c.first;
    return -c.first.code;
}

int check_models(const char *yaml, const char *worker, const struct config *config,
                 void (*warn)(const char *line), struct bl_error *err)
{
    struct check c = {.warn = warn, .yaml = yaml, .worker = worker, .config = config, .eos = -1};
    check_vision(&c);
    check_llm(&c);
    check_tokenizer(&c);
    check_qformer(&c);
    check_address(&c);
    check_init(&c);
    tokenizer_free(&c.tokenizer);
    if (!c.errors)
        return 0;
    *err = c.first;
    return -c.first.code;
}
