/* tests/unit/metrics_test.c - RUN/metrics.jsonl: every line is whole, whatever a full disk left of the last one. */
#include "tests/unit/unit.h"

#include "common/file.h"
#include "coordinator/metrics.h"

static void half_a_line_is_cut_off_when_the_run_goes_on(void **state)
{
    char folder[] = "/tmp/blipren-metrics-XXXXXX", path[80];
    struct metrics *m = NULL;
    struct bl_error err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    const char torn[] = "{\"type\":\"rewind\",\"step\":1}\n{\"type\":\"st";
    assert_ok(bl_file_write(path, torn, strlen(torn), &err), err);
    assert_ok(metrics_open(folder, &m, &err), err);
    assert_ok(metrics_rewind(m, 2, &err), err);
    metrics_close(&m);
    char *text;
    size_t size;
    assert_ok(bl_file_read(path, 1 << 20, &text, &size, &err), err);
    assert_null(strstr(text, "\"st{"));
    assert_null(strstr(text, "\"st\n"));
    int lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++)
        assert_int_equal(line[strlen(line) - 1], '}');
    assert_int_equal(lines, 2);
    free(text);
    assert_ok(bl_folder_remove(folder, &err), err);
}

UNIT_MAIN(cmocka_unit_test(half_a_line_is_cut_off_when_the_run_goes_on))
