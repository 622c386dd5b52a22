/* tests/unit/captions_test.c - prefix, caption and EOS as ids; the rules; the choice of a caption. */
#include "tests/unit/unit.h"

#include "tests/unit/letters.h"

#include "common/data/captions.h"

enum {
    EOS = LETTERS_EOS,
    SPACE = LETTERS_SPACE,
    A = LETTERS_A,
    B = LETTERS_B,
    C = LETTERS_C,
    COLON = LETTERS_COLON
};

static struct tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    struct bl_error err = {0};
    assert_ok(
        tokenizer_parse(letters_tokenizer, strlen(letters_tokenizer), "inline", &tokenizer, &err),
        err);
    return 0;
}

static int close_tokenizer(void **state)
{
    tokenizer_free(&tokenizer);
    return 0;
}

static void expect_ids(const struct token_ids *ids, const int32_t *expected, size_t count)
{
    assert_int_equal(ids->count, count);
    assert_memory_equal(ids->ids, expected, count * sizeof *expected);
}
#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4

static void expect_stripped(const char *text, const char *expected)
{
    size_t size;
    const char *at = caption_strip(text, strlen(text), &size);
    assert_int_equal(size, strlen(expected));
    assert_memory_equal(at, expected, size);
}

static void white_space_is_what_python_strips(void **state)
{
    expect_stripped(" \t\r\n\v\f a b \x1c\x1f", "a b");
    expect_stripped("\xc2\xa0\xe3\x80\x80\xe2\x80\x83x\xc2\x85\xe2\x80\xa8\xe1\x9a\x80", "x");
    expect_stripped("\xe2\x80\x8bx\xe1\xa0\x8e", "\xe2\x80\x8bx\xe1\xa0\x8e"); /* U+200B, U+180E */
    expect_stripped(" \xc2\xa0 ", "");
    expect_stripped("", "");
    expect_stripped("\x85\xa0", "\x85\xa0"); /* no UTF-8 */
    expect_stripped("\xe2\x80", "\xe2\x80");
}

static void encode_joined(struct caption_prefix prefix, const char *caption, struct token_ids *ids,
                          size_t *first, enum caption_verdict *verdict)
{
    struct bl_error err = {0};
    assert_ok(caption_encode(tokenizer, prefix, (struct caption_trace){0}, caption, strlen(caption),
                             EOS, ids, first, verdict, &err),
              err);
}

static void encode(const char *prefix, const char *caption, struct token_ids *ids, size_t *first,
                   enum caption_verdict *verdict)
{
    encode_joined((struct caption_prefix){prefix, " "}, caption, ids, first, verdict);
}

static void a_caption_follows_its_prefix_after_one_space_and_ends_with_eos(void **state)
{
    struct token_ids ids = {0}, prompt = {0};
    struct bl_error err = {0};
    size_t first;
    enum caption_verdict verdict;
    encode("b: ", "  ac \n", &ids, &first, &verdict);
    assert_int_equal(verdict, CAPTION_KEPT);
    assert_int_equal(first, 2);
    expect_ids(&ids, IDS(B, COLON, SPACE, A, C, EOS));
    assert_ok(caption_prompt(tokenizer, (struct caption_prefix){"b: ", " "}, &prompt, &err), err);
    expect_ids(&prompt, IDS(B, COLON));
    encode("", "b", &ids, &first, &verdict); /* appended */
    assert_int_equal(first, 0);
    expect_ids(&ids, IDS(B, COLON, SPACE, A, C, EOS, B, EOS));
    token_ids_release(&ids);
    token_ids_release(&prompt);
}

static void with_an_empty_join_the_prefix_counts_as_it_is(void **state)
{
    struct token_ids ids = {0};
    size_t first;
    enum caption_verdict verdict;
    encode_joined((struct caption_prefix){"b: ", ""}, " ac\n", &ids, &first, &verdict);
    assert_int_equal(verdict, CAPTION_KEPT);
    assert_int_equal(first, 3);
    expect_ids(&ids, IDS(B, COLON, SPACE, A, C, EOS));
    ids.count = 0;
    encode_joined((struct caption_prefix){"b:", ""}, "ac", &ids, &first, &verdict);
    assert_int_equal(first, 2);
    expect_ids(&ids, IDS(B, COLON, A, C, EOS));
    token_ids_release(&ids);
}

static void a_prefix_that_merges_with_the_caption_is_told_apart(void **state)
{
    struct token_ids ids = {0};
    size_t first;
    enum caption_verdict verdict;
    encode("ba", "c", &ids, &first, &verdict);
    assert_int_equal(verdict, CAPTION_BOUNDARY);
    assert_int_equal(ids.count, 0);
    encode("b:", " ", &ids, &first, &verdict);
    assert_int_equal(verdict, CAPTION_EMPTY);
    assert_int_equal(ids.count, 0);
    token_ids_release(&ids);
}

static void the_rules_judge_each_caption(void **state)
{
    char *keep[] = {"^[abc ]+$", "b"}, *drop[] = {"cc"};
    struct config_caption columns[] = {{.column = "text", .prefix = "b:", .join = " "},
                                       {.column = "other", .prefix = "", .join = " "}};
    struct config_data data = {.captions = {columns, 2},
                               .min_tokens = 2,
                               .max_tokens = 4,
                               .keep = {keep, 2},
                               .drop = {drop, 1}};
    static const struct {
        const char *text;
        uint32_t column;
        enum caption_verdict verdict;
    } cases[] = {
        {"ab", 0, CAPTION_KEPT},        {" ", 0, CAPTION_EMPTY},       {"b", 1, CAPTION_TOO_SHORT},
        {"bbb", 0, CAPTION_KEPT},       {"bbbb", 0, CAPTION_TOO_LONG}, {"bbbb", 1, CAPTION_KEPT},
        {"bbbbb", 1, CAPTION_TOO_LONG}, {"ac", 0, CAPTION_NOT_KEPT},   {"b:", 0, CAPTION_NOT_KEPT},
        {"bcc", 0, CAPTION_DROPPED},
    };
    struct bl_error err = {0};
    struct caption_rules *rules = NULL;
    struct token_ids ids = {0};
    assert_ok(caption_rules_open(&data, tokenizer, EOS, &rules, &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct caption_text caption = {
            .text = cases[i].text, .size = strlen(cases[i].text), .column = cases[i].column};
        struct caption_encoded encoded;
        ids.count = 0;
        assert_ok(caption_rules_encode(rules, &caption, &ids, &encoded, &err), err);
        if (encoded.verdict != cases[i].verdict)
            fail_msg("\"%s\": %s", cases[i].text, caption_verdict_words(encoded.verdict));
        if (encoded.verdict == CAPTION_KEPT)
            assert_int_equal(encoded.label_first, cases[i].column == 0 ? 2 : 0);
        assert_true((ids.count > 0) == (encoded.verdict == CAPTION_KEPT));
    }
    caption_rules_free(&rules);

    data.train_prefix = true;
    assert_ok(caption_rules_open(&data, tokenizer, EOS, &rules, &err), err);
    struct caption_encoded encoded;
    ids.count = 0;
    assert_ok(caption_rules_encode(rules, &(struct caption_text){.text = "ab", .size = 2}, &ids,
                                   &encoded, &err),
              err);
    assert_int_equal(encoded.label_first, 0);
    expect_ids(&ids, IDS(B, COLON, SPACE, A, B, EOS));
    caption_rules_free(&rules);
    token_ids_release(&ids);
}

enum { D = 7 };

/* "c:" + "d" + trace + ":" + caption */
static void expect_trace(enum config_labels labels, const char *trace, const char *caption,
                         enum caption_verdict verdict, size_t first, size_t end)
{
    char open[] = "d", close[] = ":", reasons[] = "reasons";
    struct config_caption column = {.column = "text",
                                    .prefix = "c:",
                                    .join = "",
                                    .trace = reasons,
                                    .open = open,
                                    .close = close,
                                    .labels = labels};
    struct config_data data = {
        .captions = {&column, 1}, .min_tokens = 1, .max_tokens = 3, .max_trace_tokens = 4};
    struct bl_error err = {0};
    struct caption_rules *rules = NULL;
    struct token_ids ids = {0};
    struct caption_encoded encoded;
    const struct caption_text text = {.text = caption,
                                      .size = strlen(caption),
                                      .trace = trace,
                                      .trace_size = trace ? strlen(trace) : 0};
    assert_ok(caption_rules_open(&data, tokenizer, EOS, &rules, &err), err);
    assert_ok(caption_rules_encode(rules, &text, &ids, &encoded, &err), err);
    assert_int_equal(encoded.verdict, verdict);
    if (verdict == CAPTION_KEPT) {
        expect_ids(&ids, IDS(C, COLON, D, A, B, COLON, B, B, EOS));
        assert_int_equal(encoded.label_first, first);
        assert_int_equal(encoded.label_end, end);
        assert_int_equal(encoded.prompt, 2);
        assert_int_equal(encoded.caption_first, 6);
    } else {
        assert_int_equal(ids.count, 0);
    }
    token_ids_release(&ids);
    caption_rules_free(&rules);
}

static void a_trace_stands_before_its_caption_and_either_may_be_trained(void **state)
{
    expect_trace(CONFIG_LABELS_BOTH, " ab\n", "bb ", CAPTION_KEPT, 2, 9);
    expect_trace(CONFIG_LABELS_TRACE, "ab", "bb", CAPTION_KEPT, 2, 6); /* its end is trained too */
    expect_trace(CONFIG_LABELS_CAPTION, "ab", "bb", CAPTION_KEPT, 6, 9);
    expect_trace(CONFIG_LABELS_BOTH, " ", "bb", CAPTION_NO_TRACE, 0, 0);
    expect_trace(CONFIG_LABELS_BOTH, NULL, "bb", CAPTION_NO_TRACE, 0, 0);
    expect_trace(CONFIG_LABELS_BOTH, "abb", "bb", CAPTION_TRACE_TOO_LONG, 0, 0);
    expect_trace(CONFIG_LABELS_BOTH, "ab", "bbbb", CAPTION_TOO_LONG, 0, 0);
}

static void traces_are_read_behind_the_captions(void **state)
{
    char a[] = "a", b[] = "b", t[] = "t";
    struct config_caption columns[] = {
        {.column = a}, {.column = b, .trace = t}, {.column = a, .trace = b}};
    struct config_data data = {.captions = {columns, 3}};
    const char *names[6];
    assert_int_equal(caption_columns(&data, names), 5);
    assert_string_equal(names[2], "a");
    assert_string_equal(names[3], "t");
    assert_string_equal(names[4], "b");
    assert_int_equal(caption_trace_column(&data, 0), 0);
    assert_int_equal(caption_trace_column(&data, 1), 3);
    assert_int_equal(caption_trace_column(&data, 2), 4);
}

static void bytes_that_are_no_utf_8_escape_no_pattern(void **state)
{
    char *drop[] = {"(?i)watermark"};
    struct config_caption column = {.column = "text", .prefix = "", .join = " "};
    struct config_data data = {
        .captions = {&column, 1}, .min_tokens = 1, .max_tokens = 99, .drop = {drop, 1}};
    static const char *const texts[] = {"a\xff watermark", "watermark \xe2\x82",
                                        "\xc3 Watermark \xc3"};
    struct bl_error err = {0};
    struct caption_rules *rules = NULL;
    struct token_ids ids = {0};
    assert_ok(caption_rules_open(&data, tokenizer, EOS, &rules, &err), err);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct caption_text caption = {.text = texts[i], .size = strlen(texts[i])};
        struct caption_encoded encoded;
        assert_ok(caption_rules_encode(rules, &caption, &ids, &encoded, &err), err);
        assert_int_equal(encoded.verdict, CAPTION_DROPPED);
    }
    caption_rules_free(&rules);
}

static void a_pattern_that_never_ends_is_an_error(void **state)
{
    char *drop[] = {"^(b+)+$"}, text[64];
    struct config_caption column = {.column = "text", .prefix = "", .join = " "};
    struct config_data data = {
        .captions = {&column, 1}, .min_tokens = 1, .max_tokens = 99, .drop = {drop, 1}};
    struct bl_error err = {0};
    struct caption_rules *rules = NULL;
    struct token_ids ids = {0};
    struct caption_encoded encoded;
    memset(text, 'b', sizeof text);
    text[sizeof text - 1] = 'c';
    assert_ok(caption_rules_open(&data, tokenizer, EOS, &rules, &err), err);
    assert_int_equal(caption_rules_encode(rules,
                                          &(struct caption_text){.text = text, .size = sizeof text},
                                          &ids, &encoded, &err),
                     -BL_ELIMIT);
    assert_string_equal(err.key, "data.drop[0]");
    caption_rules_free(&rules);
}

static void the_eos_is_data_eos_or_the_models(void **state)
{
    struct config_data data = {0};
    struct hf_llm llm = {.eos = {5, 1}, .eos_count = 2};
    struct bl_error err = {0};
    int32_t eos;
    assert_ok(caption_eos(&data, tokenizer, &llm, &eos, &err), err);
    assert_int_equal(eos, 5);
    data.eos = "</s>";
    assert_ok(caption_eos(&data, tokenizer, &llm, &eos, &err), err);
    assert_int_equal(eos, EOS);
    data.eos = "<end>";
    assert_int_equal(caption_eos(&data, tokenizer, &llm, &eos, &err), -BL_ECONFIG);
    assert_string_equal(err.key, "data.eos");
    assert_string_equal(err.text, "the tokenizer has no token \"<end>\"");
    data.eos = NULL;
    llm.eos_count = 0;
    assert_int_equal(caption_eos(&data, tokenizer, &llm, &eos, &err), -BL_ECONFIG);
    assert_string_equal(err.text, "config.json of the language model has no eos_token_id");
    llm = (struct hf_llm){.eos = {LETTERS_VOCABULARY}, .eos_count = 1};
    assert_int_equal(caption_eos(&data, tokenizer, &llm, &eos, &err), -BL_ECONFIG);
    assert_string_equal(err.text,
                        "config.json's eos_token_id 31 is not in the tokenizer's vocabulary of 31");
}

static void each_epoch_draws_a_caption_evenly(void **state)
{
    int counts[5] = {0}, same = 0;
    for (uint64_t sample = 0; sample < 5000; sample++) {
        uint32_t drawn = caption_choose(7, 3, sample, 5);
        assert_int_equal(drawn, caption_choose(7, 3, sample, 5));
        same += drawn == caption_choose(7, 4, sample, 5);
        counts[drawn]++;
    }
    for (int i = 0; i < 5; i++)
        assert_in_range(counts[i], 880, 1120);
    assert_in_range(same, 880, 1120);
    assert_int_equal(caption_choose(7, 3, 1, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_is_what_python_strips),
        cmocka_unit_test(a_caption_follows_its_prefix_after_one_space_and_ends_with_eos),
        cmocka_unit_test(with_an_empty_join_the_prefix_counts_as_it_is),
        cmocka_unit_test(a_prefix_that_merges_with_the_caption_is_told_apart),
        cmocka_unit_test(the_rules_judge_each_caption),
        cmocka_unit_test(a_trace_stands_before_its_caption_and_either_may_be_trained),
        cmocka_unit_test(traces_are_read_behind_the_captions),
        cmocka_unit_test(bytes_that_are_no_utf_8_escape_no_pattern),
        cmocka_unit_test(a_pattern_that_never_ends_is_an_error),
        cmocka_unit_test(the_eos_is_data_eos_or_the_models),
        cmocka_unit_test(each_epoch_draws_a_caption_evenly),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
