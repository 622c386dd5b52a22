/* tests/unit/tokenizer_test.c - ids and texts are those of the reference library, on one tiny
 * tokenizer of each kind (tests/golden/tokenizer/make.py); whatever is wrong in a file is named. */
#include "tests/unit/unit.h"

#include <jansson.h>
#include <pthread.h>

#include "common/cleanup.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/unicode.h"

#define GOLDEN "tests/golden/tokenizer"

static struct tokenizer *open_golden(const char *name)
{
    char path[4096];
    struct tokenizer *tokenizer = NULL;
    struct bl_error err;
    snprintf(path, sizeof path, "%s/" GOLDEN "/%s", getenv("BLIPREN_SOURCE"), name);
    assert_ok(tokenizer_open(path, &tokenizer, &err), err);
    return tokenizer;
}

static json_t *load_cases(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/" GOLDEN "/cases.json", getenv("BLIPREN_SOURCE"));
    json_t *cases = json_load_file(path, 0, NULL);
    assert_non_null(cases);
    return cases;
}

/* --- The golden cases. --- */

static size_t from_hex(const json_t *json, char *ret, size_t size_max)
{
    const char *hex = json_string_value(json);
    size_t size = strlen(hex) / 2;
    assert_true(size < size_max);
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        ret[i] = (char)byte;
    }
    ret[size] = 0;
    return size;
}

static void assert_ids(const char *name, size_t index, const json_t *expected,
                       const struct token_ids *found)
{
    bool same = json_array_size(expected) == found->count;
    for (size_t i = 0; same && i < found->count; i++)
        same = json_integer_value(json_array_get(expected, i)) == found->ids[i];
    if (same)
        return;
    char *text = json_dumps(expected, 0);
    print_error("%s: case %zu: expected %s\nfound", name, index, text);
    for (size_t i = 0; i < found->count; i++)
        print_error(" %d", (int)found->ids[i]);
    free(text);
    fail_msg("ids differ from " GOLDEN "/cases.json");
}

static void encode_gives_the_ids_of_the_reference(void **state)
{
    json_t *cases = load_cases(), *case_json, *row;
    const char *name;
    size_t index;
    json_object_foreach(cases, name, case_json)
    {
        struct tokenizer *tokenizer = open_golden(name);
        json_array_foreach(json_object_get(case_json, "encode"), index, row)
        {
            char text[4096];
            struct bl_error err;
            size_t size = from_hex(json_array_get(row, 0), text, sizeof text);
            for (int special = 0; special < 2; special++) {
                struct token_ids ids = {0};
                assert_ok(tokenizer_encode(tokenizer, text, size, special, &ids, &err), err);
                assert_ids(name, index, json_array_get(row, 1 + (size_t)special), &ids);
                token_ids_release(&ids);
            }
        }
        tokenizer_free(&tokenizer);
        assert_null(tokenizer);
    }
    json_decref(cases);
}

static void decode_gives_the_text_of_the_reference(void **state)
{
    json_t *cases = load_cases(), *case_json, *row;
    const char *name;
    size_t index;
    json_object_foreach(cases, name, case_json)
    {
        struct tokenizer *tokenizer = open_golden(name);
        json_array_foreach(json_object_get(case_json, "decode"), index, row)
        {
            int32_t ids[1024];
            size_t count = json_array_size(json_array_get(row, 0));
            assert_true(count <= 1024);
            for (size_t i = 0; i < count; i++)
                ids[i] = (int32_t)json_integer_value(json_array_get(json_array_get(row, 0), i));
            for (int skip = 0; skip < 2; skip++) {
                char expected[4096], *found = NULL;
                size_t found_size = 0;
                struct bl_error err;
                size_t size =
                    from_hex(json_array_get(row, 1 + (size_t)skip), expected, sizeof expected);
                assert_ok(
                    tokenizer_decode_sized(tokenizer, ids, count, skip, &found, &found_size, &err),
                    err);
                if (size != found_size || memcmp(expected, found, size))
                    fail_msg("%s: case %zu, skip_special %d: expected \"%s\", found \"%s\"", name,
                             index, skip, expected, found);
                free(found);
            }
        }
        tokenizer_free(&tokenizer);
    }
    json_decref(cases);
}

/* --- Properties. --- */

/* A string of random characters of all lengths in UTF-8. */
static size_t random_text(uint32_t *random, char *text, size_t characters)
{
    size_t size = 0;
    for (size_t i = 0; i < characters; i++) {
        *random = *random * 1664525 + 1013904223;
        uint32_t point = *random >> 8;
        static const uint32_t limits[] = {0x7F, 0x7FF, 0xD7FF, 0x10FFFF};
        point %= limits[*random >> 8 & 3];
        if (point >= 0xD800 && point < 0xE000)
            point = ' ';
        size += (size_t)utf8_put(point, text + size);
    }
    return size;
}

static void byte_level_text_comes_back_unchanged(void **state)
{
    struct tokenizer *tokenizer = open_golden("gpt2");
    uint32_t random = 7;
    for (int i = 0; i < 1000; i++) {
        char text[400], *back = NULL;
        struct token_ids ids = {0};
        struct bl_error err;
        size_t size = random_text(&random, text, (size_t)i % 97), back_size = 0;
        assert_ok(tokenizer_encode(tokenizer, text, size, false, &ids, &err), err);
        assert_ok(
            tokenizer_decode_sized(tokenizer, ids.ids, ids.count, false, &back, &back_size, &err),
            err);
        assert_int_equal(back_size, size);
        assert_memory_equal(back, text, size);
        free(back);
        token_ids_release(&ids);
    }
    tokenizer_free(&tokenizer);
}

/* A piece of 2^20 equal letters merges in the order of places: "ab" first, "abab" from pairs. */
static void a_word_of_a_million_letters_is_one_of_its_merges(void **state)
{
    static const char json[] =
        "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"abab\":3},\"merges\":[\"a b\",\"ab "
        "ab\"]}}";
    struct tokenizer *tokenizer = NULL;
    struct bl_error err;
    assert_ok(tokenizer_parse(json, strlen(json), "x", &tokenizer, &err), err);
    size_t size = (1 << 20) + 2;
    char *text = malloc(size);
    for (size_t i = 0; i < size; i++)
        text[i] = "ab"[i % 2];
    struct token_ids ids = {0};
    assert_ok(tokenizer_encode(tokenizer, text, size, false, &ids, &err), err);
    assert_int_equal(ids.count, (1 << 18) + 1);
    assert_int_equal(ids.ids[0], 3);
    assert_int_equal(ids.ids[ids.count - 1], 2);
    token_ids_release(&ids);
    free(text);
    tokenizer_free(&tokenizer);
}

static void *encode_many(void *argument)
{
    const struct tokenizer *tokenizer = argument;
    uint32_t random = 1;
    uint64_t sum = 0;
    for (int i = 0; i < 200; i++) {
        char text[400];
        struct token_ids ids = {0};
        size_t size = random_text(&random, text, 90);
        if (tokenizer_encode(tokenizer, text, size, true, &ids, NULL) < 0)
            return NULL;
        for (size_t k = 0; k < ids.count; k++)
            sum = sum * 31 + (uint64_t)ids.ids[k];
        token_ids_release(&ids);
    }
    return (void *)(uintptr_t)(sum | 1);
}

static void threads_share_a_tokenizer(void **state)
{
    struct tokenizer *tokenizer = open_golden("llama3");
    void *expected = encode_many(tokenizer), *found;
    pthread_t threads[4];
    assert_non_null(expected);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, tokenizer), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &found), 0);
        assert_ptr_equal(found, expected);
    }
    tokenizer_free(&tokenizer);
}

static void ids_are_appended_and_a_failure_takes_its_own_back(void **state)
{
    struct tokenizer *tokenizer = open_golden("gpt2");
    struct token_ids ids = {0};
    struct bl_error err;
    assert_ok(tokenizer_encode(tokenizer, "a", 1, false, &ids, &err), err);
    assert_ok(tokenizer_encode(tokenizer, "b", 1, false, &ids, &err), err);
    assert_int_equal(ids.count, 2);
    size_t size = (4 << 20) + 1;
    char *text = calloc(size, 1);
    memset(text, ' ', size);
    assert_int_equal(tokenizer_encode(tokenizer, text, size, false, &ids, &err), -BL_ELIMIT);
    assert_string_equal(err.text, "expected a text of at most 4194304 bytes, found 4194305");
    memset(text, '!', size);
    for (size_t i = 0; i < size; i += 2)
        text[i] = '?';
    assert_int_equal(tokenizer_encode(tokenizer, text, size - 1, false, &ids, &err), -BL_ELIMIT);
    assert_string_equal(err.text, "expected a text of at most 1048576 tokens, found 4194304");
    assert_int_equal(ids.count, 2);
    free(text);
    token_ids_release(&ids);
    tokenizer_free(&tokenizer);
}

static void tokens_are_found_by_id_and_content(void **state)
{
    struct tokenizer *tokenizer = open_golden("llama3");
    int32_t size = tokenizer_vocabulary_size(tokenizer);
    int32_t bos = tokenizer_find(tokenizer, "<s>");
    assert_int_equal(bos, size - 7);
    assert_string_equal(tokenizer_content(tokenizer, bos), "<s>");
    assert_int_equal(tokenizer_find(tokenizer, "no such token"), -1);
    assert_null(tokenizer_content(tokenizer, -1));
    assert_null(tokenizer_content(tokenizer, size));
    size_t count = 0;
    const int32_t *prefix = tokenizer_bos(tokenizer, &count);
    assert_int_equal(count, 1);
    assert_int_equal(prefix[0], bos);
    tokenizer_free(&tokenizer);
    tokenizer = open_golden("gpt2");
    tokenizer_bos(tokenizer, &count);
    assert_int_equal(count, 0);
    tokenizer_free(&tokenizer);
}

static void decode_skips_ids_outside_the_vocabulary(void **state)
{
    struct tokenizer *tokenizer = open_golden("gpt2");
    struct bl_error err;
    char *text = NULL;
    int32_t a = tokenizer_find(tokenizer, "a");
    const int32_t ids[] = {-1, a, INT32_MAX, a, INT32_MIN};
    assert_ok(tokenizer_decode(tokenizer, ids, 5, false, &text, &err), err);
    assert_string_equal(text, "aa");
    free(text);
    assert_ok(tokenizer_decode(tokenizer, NULL, 0, false, &text, &err), err);
    assert_string_equal(text, "");
    free(text);
    tokenizer_free(&tokenizer);
}

/* --- Errors. --- */

/* JSON with ' for " . */
static char *unquote(const char *text)
{
    char *json = strdup(text);
    for (char *c = json; *c; c++)
        if (*c == '\'')
            *c = '"';
    return json;
}

static void assert_refused(const char *quoted, int code, const char *message)
{
    bl_autofree char *json = unquote(quoted);
    struct tokenizer *tokenizer = NULL;
    struct bl_error err;
    char line[1600];
    assert_int_equal(tokenizer_parse(json, strlen(json), "x", &tokenizer, &err), -code);
    assert_null(tokenizer);
    err.remedy[0] = 0; /* tests/badinput judges it */
    bl_error_format(&err, line, sizeof line);
    assert_string_equal(line, message);
    assert_int_equal(tokenizer_parse(json, strlen(json), "x", &tokenizer, NULL), -code);
}

#define MODEL "'model':{'vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}"

static void a_wrong_model_is_named(void **state)
{
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"", "x: expected JSON, found at line 1, column 0: unexpected token near end of file"},
        {"[]", "x: expected an object, found a list of 0"},
        {"{}", "x: model: expected an object, found nothing"},
        {"{'model':{'unk_id':0,'type':'Unigram'}}",
         "x: model.type: expected BPE, found \"Unigram\""},
        {"{'model':{'new_option':1}}", "x: model.new_option: expected no such key, found 1"},
        {"{'model':{'dropout':0.1}}", "x: model.dropout: expected a number from 0 to 0, found 0.1"},
        {"{'model':{'continuing_subword_prefix':'##'}}",
         "x: model.continuing_subword_prefix: expected null or an empty string, found \"##\""},
        {"{'model':{'end_of_word_suffix':'</w>'}}",
         "x: model.end_of_word_suffix: expected null or an empty string, found \"</w>\""},
        {"{'model':{'vocab':[],'merges':[]}}",
         "x: model.vocab: expected an object, found a list of 0"},
        {"{'model':{'vocab':{}}}", "x: model.merges: expected a list, found nothing"},
        {"{'model':{'vocab':{'a':0,'a':1},'merges':[]}}",
         "x: expected JSON, found at line 1, column 28: duplicate object key near '\"a\"'"},
        {"{'model':{'vocab':{'a':-1},'merges':[]}}",
         "x: model.vocab.a: expected an id from 0 to 65537, found -1"},
        {"{'model':{'vocab':{'a':70000},'merges':[]}}",
         "x: model.vocab.a: expected an id from 0 to 65537, found 70000"},
        {"{'model':{'vocab':{'a':'0'},'merges':[]}}",
         "x: model.vocab.a: expected an id from 0 to 65537, found \"0\""},
        {"{'model':{'vocab':{'a':3,'b':3},'merges':[]}}",
         "x: model.vocab.b: expected an id of its own, found 3, which is \"a\""},
        {"{'model':{'vocab':{'a':0},'merges':[3]}}",
         "x: model.merges[0]: expected two tokens, found 3"},
        {"{'model':{'vocab':{'a':0},'merges':['a']}}",
         "x: model.merges[0]: expected two tokens, found \"a\""},
        {"{'model':{'vocab':{'a':0},'merges':['a b c']}}",
         "x: model.merges[0]: expected two tokens, found \"a b c\""},
        {"{'model':{'vocab':{'a':0},'merges':[['a','']]}}",
         "x: model.merges[0]: expected two tokens, found a list of 2"},
        {"{'model':{'vocab':{'a':0},'merges':[['a','b','c']]}}",
         "x: model.merges[0]: expected two tokens, found a list of 3"},
        {"{'model':{'vocab':{'a':0,'b':1},'merges':[['a','c']]}}",
         "x: model.merges[0]: expected tokens of the vocabulary, found \"c\""},
        {"{'model':{'vocab':{'a':0,'b':1},'merges':[['a','b']]}}",
         "x: model.merges[0]: expected tokens of the vocabulary, found \"ab\""},
        {"{'model':{'vocab':{'a':0,'b':1,'ab':2},'merges':['a b','a b']}}",
         "x: model.merges[1]: the same pair is already at 0"},
        {"{'model':{'vocab':{'a':0},'merges':[],'unk_token':'?'}}",
         "x: model.unk_token: expected a token of the vocabulary, found \"?\""},
        {"{'model':{'vocab':{},'merges':[],'byte_fallback':1}}",
         "x: model.byte_fallback: expected true or false, found 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].json, BL_EFORMAT, cases[i].message);
}

static void a_part_that_is_not_known_is_named(void **state)
{
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{'normalizer':{'type':'NFC'}," MODEL "}",
         "x: normalizer.type: expected Prepend, Replace or Sequence, found \"NFC\""},
        {"{'normalizer':{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'_'},"
         "{'type':'Lowercase'}]}," MODEL "}",
         "x: normalizer.normalizers[1].type: expected Prepend, Replace or Sequence, found "
         "\"Lowercase\""},
        {"{'normalizer':{'type':'Sequence'}," MODEL "}",
         "x: normalizer.normalizers: expected a list, found nothing"},
        {"{'normalizer':{'type':'Prepend'}," MODEL "}",
         "x: normalizer.prepend: expected a string, found nothing"},
        {"{'normalizer':{'type':'Replace','pattern':{'Regex':' '},'content':''}," MODEL "}",
         "x: normalizer.pattern: expected an object with the key String, found an object"},
        {"{'normalizer':{'type':'Replace','pattern':{'String':''},'content':''}," MODEL "}",
         "x: normalizer.pattern.String: expected some text, found \"\""},
        {"{'normalizer':{'type':'Replace','pattern':{'String':'a'}}," MODEL "}",
         "x: normalizer.content: expected a string, found nothing"},
        {"{'pre_tokenizer':{'type':'Whitespace'}," MODEL "}",
         "x: pre_tokenizer.type: expected ByteLevel, Digits, Metaspace, Sequence or Split, found "
         "\"Whitespace\""},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a+'},'behavior':'Isolated'}," MODEL
         "}",
         "x: pre_tokenizer.pattern.Regex: expected the regular expression of GPT-2 or Llama 3, "
         "found \"a+\""},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'String':'a'},'behavior':'Isolated'}," MODEL
         "}",
         "x: pre_tokenizer.pattern.Regex: expected a string, found nothing"},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a'},'behavior':'Removed'}," MODEL
         "}",
         "x: pre_tokenizer.behavior: expected Isolated, found \"Removed\""},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a'},'behavior':'Isolated','invert':"
         "true}," MODEL "}",
         "x: pre_tokenizer.invert: expected false, found true"},
        {"{'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'ByteLevel'},{'type':"
         "'Digits'}]}," MODEL "}",
         "x: pre_tokenizer.pretokenizers[1]: expected ByteLevel to be the last step"},
        {"{'pre_tokenizer':{'type':'Metaspace','replacement':'__'}," MODEL "}",
         "x: pre_tokenizer.replacement: expected one character, found \"__\""},
        {"{'pre_tokenizer':{'type':'Metaspace','replacement':'_','prepend_scheme':'last'}," MODEL
         "}",
         "x: pre_tokenizer.prepend_scheme: expected always, first or never, found \"last\""},
        {"{'pre_tokenizer':{'type':'Metaspace','replacement':'_','add_prefix_space':false}," MODEL
         "}",
         "x: pre_tokenizer.add_prefix_space: expected true unless prepend_scheme is never, found "
         "false"},
        {"{'decoder':{'type':'WordPiece'}," MODEL "}",
         "x: decoder.type: expected ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence or "
         "Strip, found \"WordPiece\""},
        {"{'decoder':{'type':'Strip','content':' ','start':-1}," MODEL "}",
         "x: decoder.start: expected an integer from 0 to 2147483647, found -1"},
        {"{'decoder':{'type':'Strip','content':' ','stop':1}," MODEL "}",
         "x: decoder.stop: expected an integer from 0 to 0, found 1"},
        {"{'post_processor':{'type':'BertProcessing'}," MODEL "}",
         "x: post_processor.type: expected ByteLevel, Sequence or TemplateProcessing, found "
         "\"BertProcessing\""},
        {"{'post_processor':{'type':'TemplateProcessing','single':[]}," MODEL "}",
         "x: post_processor.single: expected special tokens around one Sequence A, found a list of "
         "0"},
        {"{'post_processor':{'type':'TemplateProcessing','single':[{'Sequence':{'id':'B'}}]}," MODEL
         "}",
         "x: post_processor.single: expected special tokens around one Sequence A, found a list of "
         "1"},
        {"{'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'s'}}]},"
         "" MODEL "}",
         "x: post_processor.special_tokens.s: expected a list of ids, found nothing"},
        {"{'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'s'}}],"
         "'special_tokens':{'s':{'ids':[3]}}}," MODEL "}",
         "x: post_processor.special_tokens.s: expected an id from 0 to 2, found 3"},
        {"{'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'s'}}],"
         "'special_tokens':{'s':{'ids':[1]}}},'model':{'vocab':{'a':0,'b':2},'merges':[]}}",
         "x: post_processor.special_tokens.s: expected the id of a token, found 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].json, BL_EFORMAT, cases[i].message);
}

static void a_wrong_added_token_is_named(void **state)
{
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{'added_tokens':{}," MODEL "}", "x: added_tokens: expected a list, found an object"},
        {"{'added_tokens':[3]," MODEL "}",
         "x: added_tokens[0].id: expected an id from 0 to 65540, found nothing"},
        {"{'added_tokens':[{'id':3}]," MODEL "}",
         "x: added_tokens[0].content: expected a string, found nothing"},
        {"{'added_tokens':[{'id':3,'content':''}]," MODEL "}",
         "x: added_tokens[0].content: expected some text, found \"\""},
        {"{'added_tokens':[{'id':4,'content':'<s>'}]," MODEL "}",
         "x: added_tokens[0]: expected id 3 for \"<s>\", found 4"},
        {"{'added_tokens':[{'id':3,'content':'<s>'},{'id':5,'content':'</s>'}]," MODEL "}",
         "x: added_tokens[1]: expected id 4 for \"</s>\", found 5"},
        {"{'added_tokens':[{'id':3,'content':'ab'}]," MODEL "}",
         "x: added_tokens[0]: expected id 2 for \"ab\", found 3"},
        {"{'added_tokens':[{'id':3,'content':'c'},{'id':3,'content':'c'}]," MODEL "}",
         "x: added_tokens[1]: \"c\" is in the list twice"},
        {"{'added_tokens':[{'id':3,'content':'c','lstrip':0}]," MODEL "}",
         "x: added_tokens[0].lstrip: expected true or false, found 0"},
        {"{'normalizer':{'type':'Replace','pattern':{'String':'c'},'content':''},"
         "'added_tokens':[{'id':3,'content':'c'}]," MODEL "}",
         "x: added_tokens[0]: the normalizer deletes all of \"c\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].json, BL_EFORMAT, cases[i].message);
}

static void too_many_or_too_deep_steps_are_refused(void **state)
{
    char json[4096];
    struct bl_error err;
    struct tokenizer *tokenizer = NULL;
    int used = snprintf(json, sizeof json,
                        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":"
                        "[");
    for (int i = 0; i < 17; i++)
        used += snprintf(json + used, sizeof json - (size_t)used,
                         "%s{\"type\":\"Prepend\",\"prepend\":\"a\"}", i ? "," : "");
    snprintf(json + used, sizeof json - (size_t)used, "]},\"model\":{\"vocab\":{},\"merges\":[]}}");
    assert_int_equal(tokenizer_parse(json, strlen(json), "x", &tokenizer, &err), -BL_ELIMIT);
    assert_string_equal(err.key, "normalizer.normalizers[16]");
    assert_string_equal(err.text, "expected at most 16 steps");
    assert_refused(
        "{'decoder':{'type':'Sequence','decoders':[{'type':'Sequence','decoders':[{'type':"
        "'Sequence','decoders':[{'type':'Sequence','decoders':[{'type':'Sequence','decoders':[]}]}"
        "]}]}]}," MODEL "}",
        BL_ELIMIT,
        "x: decoder.decoders[0].decoders[0].decoders[0].decoders[0].decoders: expected sequences "
        "at most 4 deep");
}

static void a_missing_file_is_named(void **state)
{
    struct tokenizer *tokenizer = NULL;
    struct bl_error err;
    assert_int_equal(tokenizer_open("/none", &tokenizer, &err), -BL_EIO);
    assert_string_equal(err.file, "/none/tokenizer.json");
    assert_string_equal(err.text, "cannot be opened: No such file or directory");
}

UNIT_MAIN(cmocka_unit_test(encode_gives_the_ids_of_the_reference),
          cmocka_unit_test(decode_gives_the_text_of_the_reference),
          cmocka_unit_test(byte_level_text_comes_back_unchanged),
          cmocka_unit_test(a_word_of_a_million_letters_is_one_of_its_merges),
          cmocka_unit_test(threads_share_a_tokenizer),
          cmocka_unit_test(ids_are_appended_and_a_failure_takes_its_own_back),
          cmocka_unit_test(tokens_are_found_by_id_and_content),
          cmocka_unit_test(decode_skips_ids_outside_the_vocabulary),
          cmocka_unit_test(a_wrong_model_is_named),
          cmocka_unit_test(a_part_that_is_not_known_is_named),
          cmocka_unit_test(a_wrong_added_token_is_named),
          cmocka_unit_test(too_many_or_too_deep_steps_are_refused),
          cmocka_unit_test(a_missing_file_is_named))
