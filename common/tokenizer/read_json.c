/* common/tokenizer/read_json.c - tokenizer.json into the parts of a tokenizer. What is not known here
 * and would change ids is refused by key. `truncation` and `padding` are settings of a call that
 * happened to be saved; transformers resets them before each call, and they are not read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hub/hub.h"
#include "common/json.h"
#include "common/tokenizer/internal.h"
#include "common/tokenizer/unicode.h"

#define NESTING_MAX 4 /* of Sequence within Sequence */

/* A vocabulary's ids may leave gaps, but not so many that a small file asks for much memory. */
#define UNUSED_IDS_MAX 65536

/* --- Helpers. --- */

static int fail_key(const json_t *object, const char *key, const char *expected,
                    struct bl_error *err)
{
    int rc = bl_json_fail(json_object_get(object, key), expected, err);
    if (!strcmp(key, "type"))
        bl_error_remedy(err, "use a model whose tokenizer is byte-level or Llama-style BPE");
    bl_error_key(err, "%s", key);
    return rc;
}

static bool type_is(const json_t *object, const char *type)
{
    const char *found = json_string_value(json_object_get(object, "type"));
    return found && !strcmp(found, type);
}

static int copy_string(const char *string, char **ret, struct bl_error *err)
{
    *ret = strdup(string);
    return *ret ? 0 : bl_fail(err, BL_ENOMEM, "no memory for the tokenizer");
}

/* A key that must hold a string. */
static int need_string(const json_t *object, const char *key, const char **ret,
                       struct bl_error *err)
{
    *ret = json_string_value(json_object_get(object, key));
    return *ret ? 0 : fail_key(object, key, "a string", err);
}

/* A key that must hold a string of exactly one character. */
static int need_character(const json_t *object, const char *key, const char **ret,
                          struct bl_error *err)
{
    uint32_t point;
    BL_TRY(need_string(object, key, ret, err));
    size_t size = strlen(*ret);
    return size && (size_t)utf8_next(*ret, size, &point) == size
               ? 0
               : fail_key(object, key, "one character", err);
}

/* pattern: {"String": …}, not empty. */
static int need_plain_pattern(const json_t *json, const char **ret, struct bl_error *err)
{
    const json_t *pattern = json_object_get(json, "pattern");
    if (!json_is_object(pattern) || !json_object_get(pattern, "String"))
        return fail_key(json, "pattern", "an object with the key String", err);
    BL_TRY(bl_json_within(need_string(pattern, "String", ret, err), "pattern", err));
    return **ret ? 0
                 : bl_json_within(fail_key(pattern, "String", "some text", err), "pattern", err);
}

/* Runs parse on each element of a Sequence's list. */
typedef int parse_part(struct tokenizer *tokenizer, const json_t *json, int depth,
                       struct bl_error *err);
static int parse_sequence(struct tokenizer *tokenizer, const json_t *json, const char *key,
                          int depth, parse_part *parse, struct bl_error *err)
{
    const json_t *list = json_object_get(json, key);
    if (!json_is_array(list))
        return fail_key(json, key, "a list", err);
    if (!depth) {
        int rc = bl_fail(err, BL_ELIMIT, "expected sequences at most %d deep", NESTING_MAX);
        bl_error_key(err, "%s", key);
        return rc;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        char place[64];
        snprintf(place, sizeof place, "%s[%zu]", key, i);
        BL_TRY(
            bl_json_within(parse(tokenizer, json_array_get(list, i), depth - 1, err), place, err));
    }
    return 0;
}

static int check_step_count(int count, struct bl_error *err)
{
    return count < TOKENIZER_STEPS_MAX
               ? 0
               : bl_fail(err, BL_ELIMIT, "expected at most %d steps", TOKENIZER_STEPS_MAX);
}

/* --- Normalizer. --- */

static int parse_normalizer(struct tokenizer *tokenizer, const json_t *json, int depth,
                            struct bl_error *err)
{
    if (!json || json_is_null(json))
        return 0;
    if (type_is(json, "Sequence"))
        return parse_sequence(tokenizer, json, "normalizers", depth, parse_normalizer, err);
    BL_TRY(check_step_count(tokenizer->normal_count, err));
    const char *from = NULL, *to = NULL;
    if (type_is(json, "Prepend")) {
        BL_TRY(need_string(json, "prepend", &to, err));
    } else if (type_is(json, "Replace")) {
        BL_TRY(need_plain_pattern(json, &from, err));
        BL_TRY(need_string(json, "content", &to, err));
    } else {
        return fail_key(json, "type", "Prepend, Replace or Sequence", err);
    }
    struct normal_step *step = &tokenizer->normal[tokenizer->normal_count++];
    if (from)
        BL_TRY(copy_string(from, &step->from, err));
    return copy_string(to, &step->to, err);
}

/* --- Pre-tokenizer. --- */

static int add_split(struct tokenizer *tokenizer, const struct split_step *step,
                     struct bl_error *err)
{
    BL_TRY(check_step_count(tokenizer->split_count, err));
    tokenizer->split[tokenizer->split_count++] = *step;
    return 0;
}

static int parse_byte_level(struct tokenizer *tokenizer, const json_t *json, struct bl_error *err)
{
    bool prefix_space = true, use_regex = true;
    BL_TRY(bl_json_bool(json, "add_prefix_space", &prefix_space, err));
    BL_TRY(bl_json_bool(json, "use_regex", &use_regex, err));
    if (prefix_space)
        BL_TRY(add_split(tokenizer, &(struct split_step){.kind = SPLIT_PREFIX_SPACE}, err));
    if (use_regex)
        BL_TRY(add_split(tokenizer, &(struct split_step){.kind = SPLIT_GPT2}, err));
    tokenizer->byte_level = true;
    return 0;
}

static int parse_split(struct tokenizer *tokenizer, const json_t *json, struct bl_error *err)
{
    static const struct {
        const char *regex;
        enum split_kind kind;
    } known[] = {
        {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
         SPLIT_GPT2},
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
         "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         SPLIT_LLAMA3},
    };
    const char *behavior = NULL, *regex = NULL;
    bool invert = false;
    BL_TRY(need_string(json, "behavior", &behavior, err));
    if (strcmp(behavior, "Isolated"))
        return fail_key(json, "behavior", "Isolated", err);
    BL_TRY(bl_json_bool(json, "invert", &invert, err));
    if (invert)
        return fail_key(json, "invert", "false", err);
    const json_t *pattern = json_object_get(json, "pattern");
    BL_TRY(bl_json_within(need_string(pattern, "Regex", &regex, err), "pattern", err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(regex, known[i].regex))
            return add_split(tokenizer, &(struct split_step){.kind = known[i].kind}, err);
    return bl_json_within(
        fail_key(pattern, "Regex", "the regular expression of GPT-2 or Llama 3", err), "pattern",
        err);
}

/* prepend_scheme; older files have add_prefix_space, which must not contradict it. */
static int parse_prepend_scheme(const json_t *json, enum metaspace_prepend *ret,
                                struct bl_error *err)
{
    static const char *const names[] = {
        [PREPEND_ALWAYS] = "always", [PREPEND_FIRST] = "first", [PREPEND_NEVER] = "never"};
    const char *scheme = names[PREPEND_ALWAYS];
    bool prefix_space = true;
    BL_TRY(bl_json_string(json, "prepend_scheme", &scheme, err));
    BL_TRY(bl_json_bool(json, "add_prefix_space", &prefix_space, err));
    for (int i = PREPEND_ALWAYS; i <= PREPEND_NEVER; i++)
        if (!strcmp(scheme, names[i])) {
            *ret = (enum metaspace_prepend)i;
            return prefix_space || i == PREPEND_NEVER
                       ? 0
                       : fail_key(json, "add_prefix_space", "true unless prepend_scheme is never",
                                  err);
        }
    return fail_key(json, "prepend_scheme", "always, first or never", err);
}

static int parse_metaspace(struct tokenizer *tokenizer, const json_t *json, struct bl_error *err)
{
    struct split_step step = {.kind = SPLIT_METASPACE, .split = true};
    const char *mark = NULL;
    BL_TRY(need_character(json, "replacement", &mark, err));
    snprintf(step.mark, sizeof step.mark, "%s", mark);
    BL_TRY(parse_prepend_scheme(json, &step.prepend, err));
    BL_TRY(bl_json_bool(json, "split", &step.split, err));
    return add_split(tokenizer, &step, err);
}

static int parse_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json, int depth,
                               struct bl_error *err)
{
    if (!json || json_is_null(json))
        return 0;
    if (type_is(json, "Sequence"))
        return parse_sequence(tokenizer, json, "pretokenizers", depth, parse_pre_tokenizer, err);
    if (tokenizer->byte_level)
        return bl_fail(err, BL_EFORMAT, "expected ByteLevel to be the last step");
    if (type_is(json, "ByteLevel"))
        return parse_byte_level(tokenizer, json, err);
    if (type_is(json, "Split"))
        return parse_split(tokenizer, json, err);
    if (type_is(json, "Metaspace"))
        return parse_metaspace(tokenizer, json, err);
    if (!type_is(json, "Digits"))
        return fail_key(json, "type", "ByteLevel, Digits, Metaspace, Sequence or Split", err);
    bool individual = false;
    BL_TRY(bl_json_bool(json, "individual_digits", &individual, err));
    return add_split(
        tokenizer, &(struct split_step){.kind = individual ? SPLIT_DIGITS : SPLIT_DIGIT_RUNS}, err);
}

/* --- Decoder. --- */

static int parse_decoder(struct tokenizer *tokenizer, const json_t *json, int depth,
                         struct bl_error *err)
{
    if (!json || json_is_null(json))
        return 0;
    if (type_is(json, "Sequence"))
        return parse_sequence(tokenizer, json, "decoders", depth, parse_decoder, err);
    BL_TRY(check_step_count(tokenizer->decode_count, err));
    struct decode_step step = {0};
    const char *from = NULL, *to = NULL;
    if (type_is(json, "ByteLevel")) {
        step.kind = DECODE_BYTE_LEVEL;
    } else if (type_is(json, "ByteFallback")) {
        step.kind = DECODE_BYTE_FALLBACK;
    } else if (type_is(json, "Fuse")) {
        step.kind = DECODE_FUSE;
    } else if (type_is(json, "Replace")) {
        step.kind = DECODE_REPLACE;
        BL_TRY(need_plain_pattern(json, &from, err));
        BL_TRY(need_string(json, "content", &to, err));
    } else if (type_is(json, "Strip")) {
        step.kind = DECODE_STRIP;
        BL_TRY(need_character(json, "content", &from, err));
        BL_TRY(bl_json_int(json, "start", 0, INT32_MAX, &step.start, err));
        int64_t stop = 0; /* the reference fails on texts shorter than what it would cut here */
        BL_TRY(bl_json_int(json, "stop", 0, 0, &stop, err));
    } else if (type_is(json, "Metaspace")) {
        enum metaspace_prepend prepend = PREPEND_ALWAYS;
        step.kind = DECODE_METASPACE;
        BL_TRY(need_character(json, "replacement", &from, err));
        BL_TRY(parse_prepend_scheme(json, &prepend, err));
        step.drop_mark_of_first = prepend != PREPEND_NEVER;
    } else {
        return fail_key(json, "type",
                        "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence or Strip",
                        err);
    }
    struct decode_step *added = &tokenizer->decode[tokenizer->decode_count++];
    *added = step;
    if (from)
        BL_TRY(copy_string(from, &added->from, err));
    return to ? copy_string(to, &added->to, err) : 0;
}

/* --- Vocabulary and merges. --- */

static int parse_id(const json_t *json, int64_t id_max, int32_t *ret, struct bl_error *err)
{
    char expected[64];
    snprintf(expected, sizeof expected, "an id from 0 to %lld", (long long)id_max);
    if (!json_is_integer(json) || json_integer_value(json) < 0 || json_integer_value(json) > id_max)
        return bl_json_fail(json, expected, err);
    *ret = (int32_t)json_integer_value(json);
    return 0;
}

/* One more than the largest id of vocabulary and added tokens, each of which must be in range. */
static int count_ids(const json_t *vocab, const json_t *added, int32_t *ret, struct bl_error *err)
{
    int64_t id_max = (int64_t)(json_object_size(vocab) + json_array_size(added)) + UNUSED_IDS_MAX;
    if (id_max >= BL_MODEL_VOCABULARY_MAX)
        id_max = BL_MODEL_VOCABULARY_MAX - 1;
    int32_t largest = -1, id = 0;
    const char *content;
    json_t *value;
    size_t index;
    json_object_foreach((json_t *)(uintptr_t)vocab, content, value)
    {
        BL_TRY(bl_json_within(bl_json_within(parse_id(value, id_max, &id, err), content, err),
                              "model.vocab", err));
        largest = id > largest ? id : largest;
    }
    json_array_foreach(added, index, value)
    {
        char place[64];
        snprintf(place, sizeof place, "added_tokens[%zu].id", index);
        BL_TRY(
            bl_json_within(parse_id(json_object_get(value, "id"), id_max, &id, err), place, err));
        largest = id > largest ? id : largest;
    }
    *ret = largest + 1;
    return 0;
}

static int parse_vocabulary(struct vocabulary *vocabulary, const json_t *vocab,
                            struct bl_error *err)
{
    const char *content;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, content, value)
    {
        int rc = vocabulary_add(vocabulary, content, (int32_t)json_integer_value(value),
                                TOKEN_MODEL, err);
        BL_TRY(bl_json_within(bl_json_within(rc, content, err), "model.vocab", err));
    }
    return 0;
}

/* "left right", or ["left", "right"]: the two parts, and both together, in `joined`. */
static int read_merge(const json_t *json, struct text *joined, size_t *ret_left_size,
                      struct bl_error *err)
{
    const char *left = json_string_value(json_array_get(json, 0));
    const char *right = json_string_value(json_array_get(json, 1));
    size_t left_size = left ? strlen(left) : 0;
    if (json_is_string(json)) {
        left = json_string_value(json);
        const char *space = strchr(left, ' ');
        right = space ? space + 1 : NULL;
        left_size = space ? (size_t)(space - left) : 0;
        if (right && strchr(right, ' '))
            right = NULL;
    } else if (json_array_size(json) != 2) {
        right = NULL;
    }
    if (!left_size || !right || !*right)
        return bl_json_fail(json, "two tokens", err);
    joined->size = 0;
    *ret_left_size = left_size;
    BL_TRY(text_append(joined, left, left_size, err));
    return text_append(joined, right, strlen(right), err);
}

static int add_merge(struct bpe *bpe, const json_t *json, uint32_t rank, struct text *joined,
                     struct bl_error *err)
{
    size_t left_size = 0;
    BL_TRY(read_merge(json, joined, &left_size, err));
    const struct {
        const char *content;
        size_t size;
    } parts[3] = {{joined->data, left_size},
                  {joined->data + left_size, joined->size - left_size},
                  {joined->data, joined->size}};
    int32_t ids[3];
    for (int i = 0; i < 3; i++) {
        ids[i] = vocabulary_find(bpe->vocabulary, parts[i].content, parts[i].size);
        if (ids[i] < 0)
            return bl_fail(err, BL_EFORMAT, "expected tokens of the vocabulary, found \"%.*s\"",
                           (int)(parts[i].size < 80 ? parts[i].size : 80), parts[i].content);
    }
    return bpe_add_merge(bpe, ids[0], ids[1], rank, ids[2], err);
}

static int parse_merges(struct bpe *bpe, const json_t *merges, struct bl_error *err)
{
    __attribute__((cleanup(text_release))) struct text joined = {0};
    BL_TRY(bpe_init_merges(bpe, json_array_size(merges), err));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        int rc = add_merge(bpe, json_array_get(merges, i), (uint32_t)i, &joined, err);
        if (rc < 0) {
            char place[64];
            snprintf(place, sizeof place, "model.merges[%zu]", i);
            return bl_json_within(rc, place, err);
        }
    }
    return 0;
}

/* Settings that would make other tokens have only their neutral value here. */
static int check_model(const json_t *model, struct bl_error *err)
{
    static const char *const keys[] = {"type",
                                       "dropout",
                                       "unk_token",
                                       "continuing_subword_prefix",
                                       "end_of_word_suffix",
                                       "fuse_unk",
                                       "byte_fallback",
                                       "ignore_merges",
                                       "vocab",
                                       "merges"};
    if (json_object_get(model, "type") && !type_is(model, "BPE"))
        return fail_key(model, "type", "BPE", err);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)model, key, value)
    {
        bool known = false;
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            known |= !strcmp(key, keys[i]);
        if (!known)
            return fail_key(model, key, "no such key", err);
    }
    float dropout = 0;
    BL_TRY(bl_json_float(model, "dropout", 0, 0, &dropout, err));
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const char *affix = "";
        BL_TRY(bl_json_string(model, affixes[i], &affix, err));
        if (*affix)
            return fail_key(model, affixes[i], "null or an empty string", err);
    }
    if (!json_is_object(json_object_get(model, "vocab")))
        return fail_key(model, "vocab", "an object", err);
    if (!json_is_array(json_object_get(model, "merges")))
        return fail_key(model, "merges", "a list", err);
    return 0;
}

/* What BPE does besides merging; the vocabulary is there. */
static int parse_model_options(struct bpe *bpe, const json_t *model, struct bl_error *err)
{
    const char *unknown = NULL;
    bpe->unknown = -1;
    BL_TRY(bl_json_bool(model, "fuse_unk", &bpe->fuse_unknown, err));
    BL_TRY(bl_json_bool(model, "byte_fallback", &bpe->byte_fallback, err));
    BL_TRY(bl_json_bool(model, "ignore_merges", &bpe->whole_word_first, err));
    BL_TRY(bl_json_string(model, "unk_token", &unknown, err));
    if (!unknown)
        return 0;
    bpe->unknown = vocabulary_find(bpe->vocabulary, unknown, strlen(unknown));
    return bpe->unknown >= 0 ? 0 : fail_key(model, "unk_token", "a token of the vocabulary", err);
}

/* --- Added tokens. --- */

/* A token that is not in the vocabulary takes the next id after it; the reference gives it that
 * one whatever the file says, so another one in the file is an error. */
static int check_added_id(const struct tokenizer *tokenizer, const char *content, int32_t id,
                          int32_t next_id, struct bl_error *err)
{
    int32_t expected = vocabulary_find(&tokenizer->vocabulary, content, strlen(content));
    if (expected < 0)
        expected = next_id;
    if (id == expected)
        return 0;
    return bl_fail(err, BL_EFORMAT, "expected id %d for \"%.80s\", found %d", (int)expected,
                   content, (int)id);
}

/* Puts the token among those that are looked for. `normalized` ones are looked for as the
 * normalizer would write them; the reference also decodes them from that form, and then no longer
 * knows them for special ones that could be skipped. */
static int add_pattern(struct tokenizer *tokenizer, struct added_token *token, const char *content,
                       bool normalized, struct bl_error *err)
{
    __attribute__((cleanup(text_release))) struct text pattern = {0};
    BL_TRY(normalized ? tokenizer_normalize(tokenizer, content, strlen(content), &pattern, err)
                      : text_append(&pattern, content, strlen(content), err));
    if (!pattern.size)
        return bl_fail(err, BL_EFORMAT, "the normalizer deletes all of \"%.80s\"", content);
    token->size = pattern.size;
    BL_TRY(text_append(&pattern, "", 1, err)); /* a NUL */
    token->pattern = pattern.data;
    if (strcmp(pattern.data, content) != 0)
        BL_TRY(copy_string(pattern.data, &tokenizer->vocabulary.tokens[token->id].spelling, err));
    return added_set_add(normalized ? &tokenizer->added_after : &tokenizer->added_before, token,
                         err);
}

static int parse_added(struct tokenizer *tokenizer, const json_t *json, size_t order,
                       int32_t *next_id, struct bl_error *err)
{
    const char *content = NULL;
    bool special = false, normalized = true;
    struct added_token token = {.id = (int32_t)json_integer_value(json_object_get(json, "id"))};
    BL_TRY(need_string(json, "content", &content, err));
    if (!*content)
        return fail_key(json, "content", "some text", err);
    BL_TRY(bl_json_bool(json, "special", &special, err));
    BL_TRY(bl_json_bool(json, "normalized", &normalized, err));
    BL_TRY(bl_json_bool(json, "single_word", &token.single_word, err));
    BL_TRY(bl_json_bool(json, "lstrip", &token.lstrip, err));
    BL_TRY(bl_json_bool(json, "rstrip", &token.rstrip, err));

    BL_TRY(check_added_id(tokenizer, content, token.id, *next_id, err));
    struct token *entry = &tokenizer->vocabulary.tokens[token.id];
    if (entry->flags & TOKEN_ADDED)
        return bl_fail(err, BL_EFORMAT, "\"%.80s\" is in the list twice", content);
    if (!entry->content)
        BL_TRY(vocabulary_add(&tokenizer->vocabulary, content, token.id, 0, err));
    entry->flags |= TOKEN_ADDED | (special ? (unsigned)TOKEN_SPECIAL : 0);
    if (token.id >= *next_id)
        *next_id = token.id + 1;

    /* Of two tokens that look alike after the normalizer a special one is found, then the first. */
    token.order = order + (special ? 0 : SIZE_MAX / 2);
    return add_pattern(tokenizer, &token, content, normalized, err);
}

static int parse_all_added(struct tokenizer *tokenizer, const json_t *list, size_t model_count,
                           struct bl_error *err)
{
    int32_t next_id = (int32_t)model_count;
    for (size_t i = 0; i < json_array_size(list); i++) {
        char place[64];
        snprintf(place, sizeof place, "added_tokens[%zu]", i);
        BL_TRY(bl_json_within(parse_added(tokenizer, json_array_get(list, i), i, &next_id, err),
                              place, err));
    }
    added_set_sort(&tokenizer->added_before);
    added_set_sort(&tokenizer->added_after);
    return 0;
}

/* --- Post-processor. --- */

/* The ids that a template's special token stands for. */
static int add_template_token(const struct tokenizer *tokenizer, const json_t *template,
                              const char *name, struct token_ids *ret, struct bl_error *err)
{
    const json_t *entry = json_object_get(json_object_get(template, "special_tokens"), name);
    const json_t *list = json_object_get(entry, "ids");
    int rc = json_is_array(list) ? 0 : bl_json_fail(list, "a list of ids", err);
    for (size_t i = 0; rc >= 0 && i < json_array_size(list); i++) {
        int32_t id = 0;
        rc = parse_id(json_array_get(list, i), tokenizer->vocabulary.count - 1, &id, err);
        if (rc >= 0 && !tokenizer_content(tokenizer, id))
            rc = bl_fail(err, BL_EFORMAT, "expected the id of a token, found %d", (int)id);
        if (rc >= 0)
            rc = token_ids_add(ret, id, err);
    }
    return bl_json_within(bl_json_within(rc, name, err), "special_tokens", err);
}

/* single: special tokens, the text ({"Sequence": {"id": "A"}}) once, special tokens. */
static int parse_template(struct tokenizer *tokenizer, const json_t *json, struct bl_error *err)
{
    const json_t *single = json_object_get(json, "single");
    int texts = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *special = json_object_get(piece, "SpecialToken");
        if (special) {
            const char *name = NULL;
            BL_TRY(bl_json_within(need_string(special, "id", &name, err), "single", err));
            BL_TRY(add_template_token(tokenizer, json, name,
                                      texts ? &tokenizer->suffix : &tokenizer->prefix, err));
        } else {
            const char *id =
                json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
            texts += id && !strcmp(id, "A") ? 1 : 2;
        }
    }
    return texts == 1 ? 0 : fail_key(json, "single", "special tokens around one Sequence A", err);
}

static int parse_post_processor(struct tokenizer *tokenizer, const json_t *json, int depth,
                                struct bl_error *err)
{
    if (!json || json_is_null(json) || type_is(json, "ByteLevel"))
        return 0; /* ByteLevel only moves offsets */
    if (type_is(json, "Sequence"))
        return parse_sequence(tokenizer, json, "processors", depth, parse_post_processor, err);
    if (!type_is(json, "TemplateProcessing"))
        return fail_key(json, "type", "ByteLevel, Sequence or TemplateProcessing", err);
    if (tokenizer->prefix.count || tokenizer->suffix.count)
        return bl_fail(err, BL_EFORMAT, "expected one TemplateProcessing");
    return parse_template(tokenizer, json, err);
}

/* --- The file. --- */

static int parse_parts(struct tokenizer *tokenizer, const json_t *json, struct bl_error *err)
{
    struct tokenizer *t = tokenizer;
    const json_t *model = json_object_get(json, "model"), *added = NULL;
    if (!json_is_object(model))
        return fail_key(json, "model", "an object", err);
    BL_TRY(bl_json_container(json, "added_tokens", JSON_ARRAY, &added, err));
    BL_TRY(bl_json_within(check_model(model, err), "model", err));
    const json_t *vocab = json_object_get(model, "vocab");

    int32_t count = 0;
    BL_TRY(count_ids(vocab, added, &count, err));
    BL_TRY(vocabulary_init(&t->vocabulary, count, err));
    BL_TRY(parse_vocabulary(&t->vocabulary, vocab, err));
    t->bpe.vocabulary = &t->vocabulary;
    BL_TRY(parse_merges(&t->bpe, json_object_get(model, "merges"), err));
    BL_TRY(bl_json_within(parse_model_options(&t->bpe, model, err), "model", err));
    bpe_fill_tables(&t->bpe);

    static const struct {
        const char *key;
        parse_part *parse;
    } parts[] = {{"normalizer", parse_normalizer},
                 {"pre_tokenizer", parse_pre_tokenizer},
                 {"decoder", parse_decoder}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        BL_TRY(
            bl_json_within(parts[i].parse(t, json_object_get(json, parts[i].key), NESTING_MAX, err),
                           parts[i].key, err));
    BL_TRY(parse_all_added(t, added, json_object_size(vocab), err));
    return bl_json_within(
        parse_post_processor(t, json_object_get(json, "post_processor"), NESTING_MAX, err),
        "post_processor", err);
}

static int parse_json(const json_t *json, const char *name, struct tokenizer **ret,
                      struct bl_error *err)
{
    bl_auto(tokenizer) struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return bl_fail(err, BL_ENOMEM, "no memory for a tokenizer");
    int rc = json_is_object(json) ? parse_parts(tokenizer, json, err)
                                  : bl_json_fail(json, "an object", err);
    if (rc < 0) {
        bl_error_file(err, name);
        return rc;
    }
    *ret = bl_take(&tokenizer);
    return 0;
}

int tokenizer_parse(const char *text, size_t size, const char *name, struct tokenizer **ret,
                    struct bl_error *err)
{
    bl_autojson json_t *json = NULL;
    int rc = bl_json_parse(text, size, &json, err);
    if (rc < 0) {
        bl_error_file(err, name);
        return rc;
    }
    return parse_json(json, name, ret, err);
}

int tokenizer_open(const char *folder, struct tokenizer **ret, struct bl_error *err)
{
    char path[4096];
    bl_autojson json_t *json = NULL;
    BL_TRY(hub_refuse_missing(folder, err));
    BL_TRY(bl_path_join(path, sizeof path, folder, "tokenizer.json", err));
    BL_TRY(bl_json_open(path, BL_JSON_BYTES_MAX, &json, err));
    return parse_json(json, path, ret, err);
}
