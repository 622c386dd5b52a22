/* tests/unit/data_folder.h - files of a test's own folder, and configurations of runs whose data lie there. */
#pragma once

#include <string.h>

#include "common/config/config.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

static inline void put(const char *name, const char *text)
{
    struct bl_error err = {0};
    assert_ok(bl_file_write(inside(name), text, strlen(text), &err), err);
}

/* A run over the demo's language model. data: the section's lines. */
static inline struct config *configure_data(const char *data)
{
    char yaml[2048];
    struct bl_error err = {0};
    struct config *config = NULL;
    snprintf(yaml, sizeof yaml,
             "run_dir: run\nvision: {path: v}\nllm: {path: %s/deploy/demo/models/llm}\n"
             "train: {steps: 1}\ndata:\n%s",
             getenv("BLIPREN_SOURCE"), data);
    assert_ok(config_parse(yaml, strlen(yaml), "run.yaml", folder, &config, &err), err);
    return config;
}
