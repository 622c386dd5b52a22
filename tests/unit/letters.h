/* tests/unit/letters.h - a language model's small files for tests: one token a letter, and one merge
 * that eats the space behind an a. */
#pragma once

enum {
    LETTERS_EOS = 1,
    LETTERS_SPACE = 2,
    LETTERS_A = 3,
    LETTERS_B = 4,
    LETTERS_C = 5,
    LETTERS_COLON = 6
};
#define LETTERS_VOCABULARY 31

static const char letters_tokenizer[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ["
    "{\"id\": 0, \"content\": \"<unk>\", \"single_word\": false, \"lstrip\": false, "
    "\"rstrip\": false, \"normalized\": false, \"special\": true},"
    "{\"id\": 1, \"content\": \"</s>\", \"single_word\": false, \"lstrip\": false, "
    "\"rstrip\": false, \"normalized\": false, \"special\": true}"
    "], \"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, "
    "\"content\": \"\\u2581\"}, \"pre_tokenizer\": null, \"post_processor\": null, "
    "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "
    "\"pattern\": {\"String\": \"\\u2581\"}, \"content\": \" \"}, {\"type\": "
    "\"ByteFallback\"}, {\"type\": \"Fuse\"}]}, \"model\": {\"type\": \"BPE\", \"dropout\": "
    "null, \"unk_token\": \"<unk>\", \"continuing_subword_prefix\": null, "
    "\"end_of_word_suffix\": null, \"fuse_unk\": true, \"byte_fallback\": true, "
    "\"vocab\": {"
    "\"<unk>\": 0, \"</s>\": 1, \"\\u2581\": 2, \"a\": 3, \"b\": 4, \"c\": 5, "
    "\":\": 6, \"d\": 7, \"e\": 8, \"f\": 9, \"g\": 10, \"h\": 11, \"i\": 12, "
    "\"j\": 13, \"k\": 14, \"l\": 15, \"m\": 16, \"n\": 17, \"o\": 18, \"p\": 19, "
    "\"q\": 20, \"r\": 21, \"s\": 22, \"t\": 23, \"u\": 24, \"v\": 25, \"w\": 26, "
    "\"x\": 27, \"y\": 28, \"z\": 29, \"a\\u2581\": 30"
    "}, \"merges\": [\"a \\u2581\"]}}";

static const char letters_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 16, "
    "\"intermediate_size\": 24, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
    "\"num_key_value_heads\": 1, \"head_dim\": 8, \"vocab_size\": 31, "
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", "
    "\"tie_word_embeddings\": true, \"rope_theta\": 10000.0, \"bos_token_id\": null, "
    "\"eos_token_id\": 1}";
