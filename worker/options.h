/* worker/options.h - from a configuration to what the model and the device are opened with; options_training.h has
 * what a training needs besides. */
#pragma once

#include "common/config/config.h"
#include "common/tokenizer/tokenizer.h"
#include "worker/model/captioner.h"

/* Strings in the results are borrowed from config. bos_id: what the tokenizer puts in front of a
 * text, -1 for nothing. */
struct captioner_options options_captioner(const struct config *config, int32_t bos_id);
enum ops_precision options_precision(const struct config *config);

/* The id that the tokenizer puts in front of a text, -1 when it adds none. */
int32_t options_bos(const struct tokenizer *tokenizer);
/* What ends a caption: data.eos when set, else config.json's list. At most 8 ids. */
int options_eos(const struct config *config, const struct hf_llm *llm,
                const struct tokenizer *tokenizer, int32_t ret[8], int *ret_count,
                struct bl_error *err);
