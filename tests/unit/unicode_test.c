/* tests/unit/unicode_test.c - UTF-8 read and written, and the classes where libraries disagree. */
#include "tests/unit/unit.h"

#include "common/tokenizer/unicode.h"

static void every_character_reads_back_as_written(void **state)
{
    for (uint32_t point = 0; point < 0x110000; point++) {
        if (point >= 0xD800 && point < 0xE000)
            continue;
        char text[4];
        uint32_t read = ~point;
        int length = utf8_put(point, text);
        assert_int_equal(utf8_next(text, (size_t)length, &read), length);
        assert_int_equal(read, point);
        for (int cut = 1; cut < length; cut++)
            assert_int_equal(utf8_next(text, (size_t)cut, &read), -cut);
    }
}

/* How many bytes stand for one U+FFFD, as in Unicode 15, table 3-8. */
static void a_broken_sequence_counts_as_its_longest_valid_start(void **state)
{
    static const struct {
        const char *text;
        int length;
    } cases[] = {
        {"\x80", -1},         {"\xBF", -1},         {"\xC0\xAF", -1},     {"\xC1\xBF", -1},
        {"\xC2", -1},         {"\xC2\x41", -1},     {"\xE0\x80\xAF", -1}, {"\xE0\xA0", -2},
        {"\xE1\x80\xE2", -2}, {"\xED\xA0\x80", -1}, {"\xED\x9F", -2},     {"\xF0\x8F\x80", -1},
        {"\xF0\x90\x80", -3}, {"\xF1\x80\x41", -2}, {"\xF4\x90\x80", -1}, {"\xF4\x8F\xBF", -3},
        {"\xF5\x80", -1},     {"\xFF", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t point;
        assert_int_equal(utf8_next(cases[i].text, strlen(cases[i].text), &point), cases[i].length);
    }
    assert_int_equal(utf8_valid("a\xC3\xA9z", 4), 4);
    assert_int_equal(utf8_valid("a\xC3\xA9\xC3", 4), 3);
    assert_int_equal(utf8_valid("", 0), 0);
}

static void characters_have_the_classes_of_the_reference(void **state)
{
    static const struct {
        uint32_t point;
        unsigned classes;
    } cases[] = {
        {'a', UNICODE_LETTER | UNICODE_WORD},
        {'5', UNICODE_NUMBER | UNICODE_DIGIT | UNICODE_WORD},
        {'_', UNICODE_WORD},
        {'-', 0},
        {' ', UNICODE_SPACE},
        {0x85, UNICODE_SPACE},
        {0x3000, UNICODE_SPACE},
        {0x180E, 0}, /* Mongolian vowel separator: no white space since Unicode 6.3 */
        {0x200B, 0},
        {0x301, UNICODE_WORD},                    /* a combining accent */
        {0xBD, UNICODE_NUMBER | UNICODE_DIGIT},   /* one half */
        {0x4E00, UNICODE_LETTER | UNICODE_WORD},  /* the Han one is a letter */
        {0x1C89, UNICODE_LETTER | UNICODE_WORD},  /* new in Unicode 16 */
        {0x323AF, UNICODE_LETTER | UNICODE_WORD}, /* last of Unicode 15's */
        {0x11DE0, UNICODE_DIGIT},                 /* new in Unicode 17 */
        {0xE000, 0},
        {0x10FFFF, 0},
        {0xFFFFFF, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(unicode_classes(cases[i].point), cases[i].classes);
}

UNIT_MAIN(cmocka_unit_test(every_character_reads_back_as_written),
          cmocka_unit_test(a_broken_sequence_counts_as_its_longest_valid_start),
          cmocka_unit_test(characters_have_the_classes_of_the_reference))
