/* worker/caption_trace.h - telling a generated trace from the caption behind it, by what ends a trace in the run's captions. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/config/config.h"
#include "common/error.h"
#include "common/tokenizer/tokenizer.h"

/* Zero-initialise; release when done. */
struct caption_trace_end {
    const struct tokenizer *tokenizer;
    char *open, *close;   /* without white space around them; close NULL: captions have no traces */
    struct token_ids ids; /* of close */
};

/* column: the run's, its tokenizer: borrowed. Without traces, nothing is split. */
int caption_trace_open(struct caption_trace_end *end, const struct tokenizer *tokenizer,
                       const struct config_caption *column, struct bl_error *err);
void caption_trace_release(struct caption_trace_end *end);

/* The texts of trace and caption, without white space and tags around them, the caller's (free). Without traces all is caption; a trace
 * that does not end is all trace. */
int caption_trace_split(const struct caption_trace_end *end, const int32_t *ids, size_t count,
                        char **ret_trace, char **ret_caption, struct bl_error *err);
