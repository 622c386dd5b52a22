/* common/models/hf_tensors.h - which tensors a Hugging Face folder must hold, with which shapes, so that a
 * folder is judged before a device is opened. Published and re-saved prefixes are both fine. */
#pragma once

#include <stdbool.h>

#include "common/models/hf.h"
#include "common/models/safetensors.h"

/* -BL_EFORMAT names the file and the tensor that is missing, of a wrong shape or of a type other
 * than F32, F16 and BF16. head: SigLIP's attention-pooling head is needed too. */
int hf_vision_check(const struct hf_vision *config, bool head, const struct safetensors *file,
                    struct bl_error *err);
int hf_llm_check(const struct hf_llm *config, const struct safetensors *file, struct bl_error *err);

/* Numbers in those tensors (a head that is not needed is not counted). */
int64_t hf_vision_parameters(const struct hf_vision *config, bool head);
int64_t hf_llm_parameters(const struct hf_llm *config);
