/* tests/unit/progress_test.c - the line that people see, at every width. */
#include "tests/unit/unit.h"

#include "coordinator/progress.h"

static const struct progress_view view = {.phase = "TRAINING",
                                          .source_losses = "",
                                          .step = 150,
                                          .steps = 400,
                                          .epoch = 12.567,
                                          .loss = 0.51584,
                                          .images_per_s = 180.04,
                                          .tokens_per_s = 4517,
                                          .seconds_left = 82,
                                          .waiting = "all-reduce",
                                          .workers = 2,
                                          .loaders = 3};

static void a_wide_terminal_shows_everything(void **state)
{
    char text[512];
    progress_text(text, sizeof text, &view, 500);
    assert_string_equal(
        text, "[#######.............] step 150/400  epoch 12.57  loss 0.5158  180.0 images/s  "
              "4517 tokens/s  ETA 1:22  waiting for: all-reduce  TRAINING  2 workers, 3 loaders");
}

static void a_narrower_one_keeps_what_matters_most(void **state)
{
    char text[512];
    progress_text(text, sizeof text, &view, 119);
    assert_string_equal(
        text, "step 150/400  epoch 12.57  loss 0.5158  180.0 images/s  4517 tokens/s  ETA 1:22  "
              "waiting for: all-reduce");
    progress_text(text, sizeof text, &view, 79);
    assert_string_equal(
        text, "150/400 ep 12.57 loss 0.5158 180 img/s 4517 tok/s ETA 1:22 waits for all-reduce");
    progress_text(text, sizeof text, &view, 39);
    assert_string_equal(text, "150/400 loss 0.516 ETA 1:22 all-reduce");
    progress_text(text, sizeof text, &view, 19);
    assert_string_equal(text, "150/400 all-reduce");
}

static void no_line_is_wider_than_its_terminal(void **state)
{
    char text[512];
    for (int columns = 0; columns < 200; columns++) {
        progress_text(text, sizeof text, &view, columns);
        assert_true((int)strlen(text) <= columns);
    }
}

UNIT_MAIN(cmocka_unit_test(a_wide_terminal_shows_everything),
          cmocka_unit_test(a_narrower_one_keeps_what_matters_most),
          cmocka_unit_test(no_line_is_wider_than_its_terminal))
