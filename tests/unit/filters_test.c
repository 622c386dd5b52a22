/* tests/unit/filters_test.c - the rules that look at a caption's text and at the numbers beside it. */
#include "tests/unit/unit.h"

#include <math.h>

#include "common/cleanup.h"
#include "common/data/filters.h"

static struct filters *opened(const struct config_data *data)
{
    struct bl_error err = {0};
    struct filters *filters = NULL;
    assert_ok(filters_open(data, &filters, &err), err);
    return filters;
}

static void expect_strip(const struct filters *filters, const char *text, const char *expected,
                         uint32_t rule)
{
    struct bl_error err = {0};
    bl_autobytes struct bl_bytes spare = {0};
    const char *left;
    size_t size;
    uint32_t found;
    assert_ok(filters_strip(filters, text, strlen(text), &spare, &left, &size, &found, &err), err);
    if (found != rule || size != strlen(expected) || memcmp(left, expected, size))
        fail_msg("\"%s\": expected \"%s\" by %d, found \"%.*s\" by %d", text, expected, (int)rule,
                 (int)size, left, (int)found);
}

static void an_opening_is_taken_off_and_the_rest_begins_with_a_capital(void **state)
{
    char *strip[] = {"(?i)(the|this) (image|photo) (shows|is of) ", "In this picture, ?",
                     "x*"}; /* the last may match nothing, which takes nothing off */
    const struct config_data data = {.strip = {strip, 3}};
    struct filters *filters = opened(&data);
    expect_strip(filters, "The image shows a dog.", "A dog.", 0);
    expect_strip(filters, "this PHOTO is of  élan", "Élan", 0);
    expect_strip(filters, "In this picture, the image shows a cat", "The image shows a cat", 1);
    expect_strip(filters, "A dog. The image shows a dog", "A dog. The image shows a dog",
                 FILTERS_NONE);
    expect_strip(filters, "In this picture,", "", 1);
    expect_strip(filters, "xx 3 dogs", "3 dogs", 2);
    expect_strip(filters, "", "", FILTERS_NONE);
    filters_free(&filters);
}

static uint32_t keep_rule(const struct filters *filters, const char *text)
{
    struct bl_error err = {0};
    uint32_t rule;
    assert_ok(filters_keep(filters, text, strlen(text), &rule, &err), err);
    return rule;
}

static uint32_t drop_rule(const struct filters *filters, const char *text)
{
    struct bl_error err = {0};
    uint32_t rule;
    assert_ok(filters_drop(filters, text, strlen(text), &rule, &err), err);
    return rule;
}

static void the_first_pattern_that_drops_is_named(void **state)
{
    char *keep[] = {"[.!]$", "^[A-Z]"}, *drop[] = {"http", "(?i)stock photo"};
    const struct config_data data = {.keep = {keep, 2}, .drop = {drop, 2}};
    struct filters *filters = opened(&data);
    assert_int_equal(keep_rule(filters, "A dog."), FILTERS_NONE);
    assert_int_equal(keep_rule(filters, "a dog"), 0);
    assert_int_equal(keep_rule(filters, "a dog!"), 1);
    assert_int_equal(drop_rule(filters, "A dog."), FILTERS_NONE);
    assert_int_equal(drop_rule(filters, "Stock Photo"), 1);
    assert_int_equal(drop_rule(filters, "Stock photo at http://x"), 0);
    filters_free(&filters);
}

static bool of_script(const char *script, double share, const char *text)
{
    char name[32];
    snprintf(name, sizeof name, "%s", script);
    const struct config_data data = {.script = name, .script_share = share};
    struct filters *filters = opened(&data);
    struct bl_error err = {0};
    bool ret;
    assert_ok(filters_script(filters, text, strlen(text), &ret, &err), err);
    filters_free(&filters);
    return ret;
}

static void letters_are_counted_by_their_script(void **state)
{
    assert_true(of_script("Latin", 1, "A café, naïve: 3 × 5!"));
    assert_false(of_script("Latin", 0.9, "собака на пляже"));
    assert_true(of_script("Cyrillic", 0.9, "собака на пляже"));
    assert_true(of_script("Han", 1, "一只狗在海滩上。"));
    assert_false(of_script("Latin", 0.5, "ab 狗狗狗")); /* 2 of 5 */
    assert_true(of_script("Latin", 0.4, "ab 狗狗狗"));
    assert_false(of_script("Latin", 0.1, "12:30 €€")); /* no letter */
    assert_false(of_script("Latin", 0.1, ""));
    assert_true(of_script("Greek", 0.5, "αβγ \xff abc"));
    const struct config_data any = {0};
    struct filters *filters = opened(&any);
    struct bl_error err = {0};
    bool ret;
    assert_ok(filters_script(filters, "12", 2, &ret, &err), err);
    assert_true(ret);
    filters_free(&filters);
}

static void a_number_is_kept_within_its_bounds_and_none_is_not(void **state)
{
    char gain[] = "gain", size[] = "size";
    struct config_filter at[] = {{gain, 0.2, INFINITY}, {size, -INFINITY, 10}};
    const struct config_filters filters = {at, 2};
    assert_int_equal(filters_numbers(&filters, (double[]){0.2, 10}), FILTERS_NONE);
    assert_int_equal(filters_numbers(&filters, (double[]){0.19, 1}), 0);
    assert_int_equal(filters_numbers(&filters, (double[]){1, 10.5}), 1);
    assert_int_equal(filters_numbers(&filters, (double[]){NAN, 10}), 0);
    assert_int_equal(filters_numbers(&filters, (double[]){INFINITY, -INFINITY}), FILTERS_NONE);
    const struct config_filters none = {0};
    assert_int_equal(filters_numbers(&none, NULL), FILTERS_NONE);
}

static void expect_normal(const char *text, const char *expected)
{
    struct bl_error err = {0};
    bl_autobytes struct bl_bytes found = {0};
    assert_true(bl_bytes_add(&found, "|", 1));
    assert_ok(filters_normalize(text, strlen(text), &found, &err), err);
    if (found.size != strlen(expected) + 1 || memcmp(found.data + 1, expected, found.size - 1))
        fail_msg("\"%s\": expected \"%s\", found \"%.*s\"", text, expected, (int)found.size - 1,
                 found.data + 1);
}

/* Expected by Python: unicodedata.normalize("NFKC", text).casefold(), words joined by one blank. */
static void captions_are_compared_without_case_forms_and_white_space(void **state)
{
    expect_normal("  A  Dog\ton\n the BEACH. ", "a dog on the beach.");
    expect_normal("Ｆｕｌｌ\xc2\xa0width ﬁsh", "full width fish");
    expect_normal("Stra\xc3\x9f"
                  "e",
                  "strasse");
    expect_normal("e\xcc\x81t\xc3\xa9", "\xc3\xa9t\xc3\xa9"); /* composed and decomposed */
    expect_normal("so\xc2\xad"
                  "ft",
                  "soft"); /* a soft hyphen */
    expect_normal("", "");
    expect_normal(" \xe3\x80\x80 ", "");
    expect_normal("A\xff", "A\xff"); /* no UTF-8 */
}

UNIT_MAIN(cmocka_unit_test(an_opening_is_taken_off_and_the_rest_begins_with_a_capital),
          cmocka_unit_test(the_first_pattern_that_drops_is_named),
          cmocka_unit_test(letters_are_counted_by_their_script),
          cmocka_unit_test(a_number_is_kept_within_its_bounds_and_none_is_not),
          cmocka_unit_test(captions_are_compared_without_case_forms_and_white_space))
