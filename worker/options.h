/* worker/options.h - from a configuration to what the engine, the model and the trainer are opened
 * with. */
#pragma once

#include "common/config/config.h"
#include "common/tokenizer/tokenizer.h"
#include "worker/engine.h"

/* Strings in the results are borrowed from config. bos_id: what the tokenizer puts in front of a
 * text, -1 for nothing. */
struct captioner_options options_captioner(const struct config *config, int32_t bos_id);
struct trainer_options options_trainer(const struct config *config);
enum ops_precision options_precision(const struct config *config);
/* Places of one group: a grain when reproducible, else a micro-batch. */
int64_t options_group_size(const struct config *config);

/* The id that the tokenizer puts in front of a text, -1 when it adds none. */
int32_t options_bos(const struct tokenizer *tokenizer);
/* What ends a caption: data.eos when set, else config.json's list. At most 8 ids. */
int options_eos(const struct config *config, const struct hf_llm *llm,
                const struct tokenizer *tokenizer, int32_t ret[8], int *ret_count,
                struct bl_error *err);
/* What a checkpoint says of its run: paths and hashes of the frozen models, the configuration.
 * Hashing reads the folders once. The caller releases it. */
int options_checkpoint_metadata(const struct config *config, const char *data_fingerprint,
                                struct checkpoint_state *ret, struct bl_error *err);
