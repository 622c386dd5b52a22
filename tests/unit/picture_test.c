/* tests/unit/picture_test.c - what is drawn lands where it should, stays on the canvas and survives a
 * PNG file. */
#include "tests/unit/unit.h"

#include <math.h>
#include <stdbool.h>
#include <unistd.h>

#include "common/picture/chart.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/image/image.h"

static struct picture canvas(int64_t width, int64_t height)
{
    struct picture ret;
    struct bl_error err;
    assert_ok(picture_init(&ret, width, height, COLOUR_WHITE, &err), err);
    return ret;
}

static bool has_colour(const struct picture *picture, int64_t x, int64_t y, struct colour colour)
{
    return memcmp(picture->pixels + 3 * (y * picture->width + x), &colour, 3) == 0;
}

/* The colour itself or almost: lines are smoothed at their edges. */
static bool is_nearly(const struct picture *picture, int64_t x, int64_t y, struct colour colour)
{
    const uint8_t *p = picture->pixels + 3 * (y * picture->width + x);
    return abs(p[0] - colour.r) + abs(p[1] - colour.g) + abs(p[2] - colour.b) < 80;
}

static int64_t count_colour(const struct picture *picture, struct colour colour)
{
    int64_t found = 0;
    for (int64_t y = 0; y < picture->height; y++)
        for (int64_t x = 0; x < picture->width; x++)
            found += has_colour(picture, x, y, colour);
    return found;
}

static void a_filled_box_and_its_frame_cover_exactly_their_pixels(void **state)
{
    bl_autopicture struct picture p = canvas(10, 8);
    picture_fill(&p, (struct box){2, 3, 4, 2}, COLOUR_INK);
    assert_int_equal(count_colour(&p, COLOUR_INK), 8);
    assert_true(has_colour(&p, 2, 3, COLOUR_INK) && has_colour(&p, 5, 4, COLOUR_INK));
    picture_frame(&p, (struct box){0, 0, 10, 8}, COLOUR_BAD);
    assert_int_equal(count_colour(&p, COLOUR_BAD), 2 * 10 + 2 * 6);
}

static void drawing_beyond_the_canvas_is_clipped(void **state)
{
    static const uint8_t image[2 * 2 * 3];
    static const float map[4] = {0, 1, NAN, INFINITY};
    bl_autopicture struct picture p = canvas(7, 5);
    const struct box outside[] = {{-3, -3, 20, 20}, {6, 4, 9, 9}, {-9, 0, 4, 4},
                                  {50, 50, 3, 3},   {2, 2, 0, 0}, {2, 2, -4, 1}};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        picture_fill(&p, outside[i], COLOUR_INK);
        picture_frame(&p, outside[i], COLOUR_INK);
        picture_blit(&p, outside[i], image, 2, 2);
        picture_heat(&p, outside[i], map, 2, 2, 0, 1);
        picture_text(&p, outside[i].x, outside[i].y, 3, COLOUR_INK, "clipped");
        picture_line(&p, (double)outside[i].x, -5, 1e9, 1e12, 3, COLOUR_INK);
    }
}

static void a_picture_without_pixels_is_refused(void **state)
{
    struct bl_error err;
    struct picture p;
    assert_int_equal(picture_init(&p, 0, 5, COLOUR_WHITE, &err), -BL_ELIMIT);
    assert_string_equal(err.text, "expected an image with sides of 1 to 65535 pixels, found 0 x 5");
    assert_int_equal(picture_init(&p, 5, 65536, COLOUR_WHITE, &err), -BL_ELIMIT);
}

static void a_straight_line_covers_its_thickness(void **state)
{
    bl_autopicture struct picture p = canvas(12, 9);
    picture_line(&p, 2, 4, 10, 4, 2, COLOUR_INK);
    for (int64_t x = 2; x < 10; x++)
        assert_true(has_colour(&p, x, 3, COLOUR_INK) && has_colour(&p, x, 4, COLOUR_INK));
    assert_true(has_colour(&p, 5, 2, COLOUR_WHITE) && has_colour(&p, 5, 5, COLOUR_WHITE));
    assert_true(has_colour(&p, 0, 3, COLOUR_WHITE) && has_colour(&p, 11, 4, COLOUR_WHITE));
}

static void an_image_of_the_box_s_size_is_copied_and_others_are_averaged(void **state)
{
    uint8_t image[4 * 4 * 3];
    for (size_t i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)(i * 5);
    bl_autopicture struct picture p = canvas(20, 20);
    picture_blit(&p, (struct box){3, 2, 4, 4}, image, 4, 4);
    for (int64_t y = 0; y < 4; y++)
        assert_memory_equal(p.pixels + 3 * ((y + 2) * 20 + 3), image + 12 * y, 12);

    uint8_t stripes[8 * 8 * 3];
    for (size_t i = 0; i < sizeof stripes; i++)
        stripes[i] = i / 3 % 2 ? 200 : 100;
    picture_blit(&p, (struct box){10, 10, 2, 2}, stripes, 8, 8);
    const uint8_t *pixel = p.pixels + 3 * (10 * 20 + 10);
    assert_in_range(pixel[0], 145, 155);

    memset(stripes, 77, sizeof stripes);
    picture_blit(&p, (struct box){0, 0, 19, 20}, stripes, 8, 8);
    assert_int_equal(count_colour(&p, (struct colour){77, 77, 77}), 19 * 20);
}

static double luminance(struct colour colour)
{
    return 0.2126 * pow(colour.r / 255.0, 2.2) + 0.7152 * pow(colour.g / 255.0, 2.2) +
           0.0722 * pow(colour.b / 255.0, 2.2);
}

static void heat_colours_grow_lighter_from_end_to_end(void **state)
{
    for (int i = 0; i < 100; i++)
        assert_true(luminance(colour_heat(i / 100.0)) < luminance(colour_heat((i + 1) / 100.0)));
    assert_memory_equal(&(struct colour[]){colour_heat(-3)}, &(struct colour[]){colour_heat(0)}, 3);
    assert_memory_equal(&(struct colour[]){colour_heat(3)}, &(struct colour[]){colour_heat(1)}, 3);
}

static void a_heat_map_is_hot_where_its_values_are_high(void **state)
{
    static const float map[9] = {0, 0, 0, 0, 0, 0, 0, 0, 1};
    bl_autopicture struct picture p = canvas(30, 30);
    picture_fill(&p, (struct box){0, 0, 30, 30}, COLOUR_GREY);
    picture_heat(&p, (struct box){0, 0, 30, 30}, map, 3, 3, 0, 1);
    struct colour cold, hot;
    memcpy(&cold, p.pixels, 3);
    memcpy(&hot, p.pixels + 3 * (25 * 30 + 25), 3);
    assert_true(hot.r > cold.r + 60 && hot.g > cold.g + 60);
    assert_true(abs(cold.r - cold.b) < 12); /* the picture, a little tinted */
}

static void every_printable_character_has_a_glyph_of_its_own(void **state)
{
    enum { SIZE = 10 * 12 * 3 };
    static uint8_t seen[128][SIZE];
    for (int c = 32; c < 127; c++) {
        bl_autopicture struct picture p = canvas(10, 12);
        picture_text(&p, 1, 1, 1, COLOUR_INK, (const char[]){(char)c, 0});
        assert_true(c == ' ' || count_colour(&p, COLOUR_INK) > 0);
        memcpy(seen[c], p.pixels, SIZE);
        for (int other = 32; other < c; other++)
            if (memcmp(seen[other], seen[c], SIZE) == 0)
                fail_msg("'%c' looks like '%c'", c, other);
    }
}

static void text_is_as_wide_as_it_says(void **state)
{
    static const double scales[] = {1, 1.4, 2, 3};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        bl_autopicture struct picture p = canvas(500, 60);
        int64_t width = picture_text(NULL, 0, 0, scales[i], COLOUR_INK, "Widths: iMW \xc3\xa9.");
        assert_int_equal(picture_text(&p, 5, 10, scales[i], COLOUR_INK, "Widths: iMW \xc3\xa9."),
                         width);
        for (int64_t y = 0; y < 60; y++) {
            for (int64_t x = 5 + width + 1; x < 500; x++)
                assert_true(has_colour(&p, x, y, COLOUR_WHITE));
            for (int64_t x = 0; x < 4; x++)
                assert_true(has_colour(&p, x, y, COLOUR_WHITE));
        }
    }
}

static void wrapped_text_keeps_to_its_width(void **state)
{
    static const char text[] = "two large blue squares and one verylongwordthatfitsonnoline\nend";
    bl_autopicture struct picture p = canvas(120, 300);
    int64_t height = picture_text_wrapped(&p, 10, 0, 80, 1.4, COLOUR_INK, text);
    assert_int_equal(height, picture_text_wrapped(NULL, 10, 0, 80, 1.4, COLOUR_INK, text));
    assert_in_range(height, 7 * 12 * 1.4, 10 * 12 * 1.4);
    for (int64_t y = 0; y < 300; y++)
        for (int64_t x = 92; x < 120; x++)
            assert_true(has_colour(&p, x, y, COLOUR_WHITE));
    assert_int_equal(picture_text_wrapped(NULL, 0, 0, 80, 1, COLOUR_INK, ""), 0);
    assert_int_equal(picture_text_wrapped(NULL, 0, 0, 1, 1, COLOUR_INK, "abc"), 3 * 12);
}

static void a_picture_survives_its_file(void **state)
{
    struct bl_error err;
    char path[] = "/tmp/blipren-picture-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    bl_autopicture struct picture p = canvas(33, 21);
    picture_text(&p, 1, 1, 2, COLOUR_BAD, "Abc");
    assert_ok(picture_write(&p, path, &err), err);
    bl_autofree char *data = NULL;
    size_t size;
    assert_ok(bl_file_read(path, 1 << 20, &data, &size, &err), err);
    unlink(path);
    bl_autoimage struct image image = {0};
    assert_ok(image_decode((uint8_t *)data, size, 1000, &image, &err), err);
    assert_int_equal(image.width, 33);
    assert_memory_equal(image.pixels, p.pixels, 33 * 21 * 3);

    assert_int_equal(picture_write(&p, "/nonexistent/x.png", &err), -BL_EIO);
    assert_non_null(strstr(err.file, "/nonexistent/x.png"));
}

static void a_chart_draws_its_points_where_the_axes_say(void **state)
{
    const double x[] = {0, 10}, flat[] = {5, 5}, rising[] = {0, 10};
    const struct chart_series series[] = {{NULL, x, flat, 2, NULL}, {NULL, x, rising, 2, NULL}};
    bl_autopicture struct picture p = canvas(400, 300);
    chart_draw(&p, (struct box){0, 0, 400, 300},
               &(struct chart){.series = series, .series_count = 2});
    int64_t left = 400, right = 0, rows = 0;
    for (int64_t y = 0; y < 300; y++) {
        int64_t in_row = 0;
        for (int64_t c = 0; c < 400; c++)
            if (is_nearly(&p, c, y, colour_series(0))) {
                left = c < left ? c : left;
                right = c > right ? c : right;
                in_row++;
            }
        rows += in_row > 200;
    }
    assert_in_range(rows, 1, 2);             /* a level line … */
    assert_in_range(right - left, 320, 400); /* … from end to end of the axis */
    assert_true(count_colour(&p, colour_series(1)) > 100);
}

static void a_chart_of_odd_numbers_is_drawn_all_the_same(void **state)
{
    const double x[] = {0, 1, 2, 3, 4, 5}, odd[] = {NAN, INFINITY, -INFINITY, 1e308, -1e308, 3};
    const double tiny[] = {1e-310, 0, 1e-310, 0, 0, 0}, large[] = {1e30, 2e30, 3e30, 1e299, 0, 1};
    const double close[] = {1e9, 1e9 + 1e-3, 1e9, 1e9, 1e9, 1e9};
    const double *const all[] = {odd, tiny, large, close};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct chart_series series = {"name", x, all[i], 6, NULL};
        const struct chart chart = {"title", "x", "y", &series, 1};
        bl_autopicture struct picture p = canvas(300, 200);
        chart_draw(&p, (struct box){0, 0, 300, 200}, &chart);
        assert_true(count_colour(&p, colour_series(0)) > 0);
        chart_draw(&p, (struct box){10, 10, 3, 3}, &chart);
    }
    bl_autopicture struct picture p = canvas(300, 200);
    chart_draw(&p, (struct box){0, 0, 300, 200}, &(struct chart){.title = "nothing"});
    assert_true(count_colour(&p, COLOUR_FAINT) > 100);
}

static void the_legend_stays_clear_of_the_points(void **state)
{
    double x[50], y[50];
    for (int i = 0; i < 50; i++) {
        x[i] = i;
        y[i] = i; /* bottom left to top right: the corner at the top right is taken */
    }
    const struct chart_series series = {"a rather long name", x, y, 50, &COLOUR_GOOD};
    const struct chart chart = {.series = &series, .series_count = 1};
    bl_autopicture struct picture p = canvas(400, 300);
    chart_draw(&p, (struct box){0, 0, 400, 300}, &chart);
    int64_t below_right = 0, above_left = 0;
    for (int64_t r = 0; r < 300; r++)
        for (int64_t c = 0; c < 400; c++) {
            below_right += r > 200 && c > 230 && has_colour(&p, c, r, COLOUR_GOOD);
            above_left += r < 100 && c < 170 && has_colour(&p, c, r, COLOUR_GOOD);
        }
    assert_true((below_right > 0) != (above_left > 0));
}

UNIT_MAIN(cmocka_unit_test(a_filled_box_and_its_frame_cover_exactly_their_pixels),
          cmocka_unit_test(drawing_beyond_the_canvas_is_clipped),
          cmocka_unit_test(a_picture_without_pixels_is_refused),
          cmocka_unit_test(a_straight_line_covers_its_thickness),
          cmocka_unit_test(an_image_of_the_box_s_size_is_copied_and_others_are_averaged),
          cmocka_unit_test(heat_colours_grow_lighter_from_end_to_end),
          cmocka_unit_test(a_heat_map_is_hot_where_its_values_are_high),
          cmocka_unit_test(every_printable_character_has_a_glyph_of_its_own),
          cmocka_unit_test(text_is_as_wide_as_it_says),
          cmocka_unit_test(wrapped_text_keeps_to_its_width),
          cmocka_unit_test(a_picture_survives_its_file),
          cmocka_unit_test(a_chart_draws_its_points_where_the_axes_say),
          cmocka_unit_test(a_chart_of_odd_numbers_is_drawn_all_the_same),
          cmocka_unit_test(the_legend_stays_clear_of_the_points))
