/* tests/unit/log_test.c - a log line is one line of plain text, whatever peers and file names say. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/log.h"
#include "common/log_limit.h"

/* What bl_log prints of the text, after the identity. */
static const char *logged(const char *text)
{
    static char line[4096];
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    assert_true(file && saved >= 0);
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    bl_log(BL_LOG_WARNING, "peer=%s leaves", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    size_t size = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[size] = 0;
    char *start = strstr(line, "peer=");
    assert_non_null(start);
    return start;
}

static void readable_text_is_printed_as_it_is(void **state)
{
    assert_string_equal(logged("rechner-\u00e4:17 \U0001f534"),
                        "peer=rechner-\u00e4:17 \U0001f534 leaves\n");
}

static void a_control_character_is_a_question_mark(void **state)
{
    static const char *const controls[] = {
        "\n", "\r", "\t", "\x1b", "\x7f", "\xc2\x85", "\xc2\x9b", "\u2028", "\u2029",
    };
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        char text[32];
        snprintf(text, sizeof text, "a%sb", controls[i]);
        assert_string_equal(logged(text), "peer=a?b leaves\n");
    }
}

static void what_turns_the_direction_of_writing_is_a_question_mark(void **state)
{
    static const char *const turns[] = {"\u202a", "\u202e", "\u2066", "\u2069", "\u200f", "\u061c"};
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        char text[32];
        snprintf(text, sizeof text, "gpj.%stxt", turns[i]);
        assert_string_equal(logged(text), "peer=gpj.?txt leaves\n");
    }
}

static void bytes_that_are_not_utf8_are_question_marks(void **state)
{
    assert_string_equal(logged("a\xff\x9b"
                               "b"),
                        "peer=a??b leaves\n");
}

static uint32_t lines(struct log_limit *limit, const char *peer, uint32_t count, uint64_t now_ms)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < count; i++)
        written += log_limit_may(limit, peer, now_ms);
    return written;
}

static void a_peer_provokes_ten_lines_a_minute_and_the_rest_is_counted(void **state)
{
    static struct log_limit limit;
    char peer[LOG_LIMIT_NAME_MAX];
    uint32_t count;
    memset(&limit, 0, sizeof limit);
    assert_int_equal(lines(&limit, "10.0.0.1", 1000, 5000), 9);
    assert_int_equal(lines(&limit, "10.0.0.2", 3, 5000), 3);
    assert_false(log_limit_count(&limit, 64999, peer, &count));
    assert_true(log_limit_count(&limit, 65000, peer, &count));
    assert_string_equal(peer, "10.0.0.1");
    assert_int_equal(count, 991);
    assert_false(log_limit_count(&limit, 65000, peer, &count));
    assert_int_equal(lines(&limit, "10.0.0.1", 20, 65000), 9);
    assert_int_equal(lines(&limit, "10.0.0.2", 20, 65000), 9);
}

static void any_number_of_peers_share_a_bounded_number_of_lines(void **state)
{
    static struct log_limit limit;
    uint32_t written = 0;
    memset(&limit, 0, sizeof limit);
    for (uint32_t i = 0; i < 100000; i++) {
        char peer[32];
        snprintf(peer, sizeof peer, "stranger:%u", i);
        written += log_limit_may(&limit, peer, 1000);
    }
    assert_in_range(written, LOG_LIMIT_PEERS / 2, LOG_LIMIT_PEERS + LOG_LIMIT_LINES);
}

UNIT_MAIN(cmocka_unit_test(a_peer_provokes_ten_lines_a_minute_and_the_rest_is_counted),
          cmocka_unit_test(any_number_of_peers_share_a_bounded_number_of_lines),
          cmocka_unit_test(readable_text_is_printed_as_it_is),
          cmocka_unit_test(a_control_character_is_a_question_mark),
          cmocka_unit_test(what_turns_the_direction_of_writing_is_a_question_mark),
          cmocka_unit_test(bytes_that_are_not_utf8_are_question_marks))
