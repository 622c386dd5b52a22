/* tests/unit/demo_judge_test.c - the demo's scenes, their captions, and the judge of captions. */
#include "deploy/demo/reading.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { SCENES_TRIED = 5000, SEED = 20 };

/* Two small red circles to the left of one large blue ring, on striped brown. */
static const struct scene two_groups = {
    .group_count = 2,
    .groups = {{2, RED, CIRCLE, SMALL}, {1, BLUE, RING, LARGE}},
    .relation = LEFT_OF,
    .texture = STRIPED,
    .tone = BROWN,
};
static const struct scene one_group = {
    .group_count = 1,
    .groups = {{3, WHITE, CROSS, SMALL}},
    .relation = NO_RELATION,
    .texture = PLAIN,
    .tone = TAN,
};

static bool judged_right(const char *caption, const struct scene *scene)
{
    struct reading reading;
    return reading_parse(&reading, caption) && reading_groups_right(&reading, scene);
}

static bool readable(const char *caption)
{
    struct reading reading;
    return reading_parse(&reading, caption);
}

static struct reading read_it(const char *caption)
{
    struct reading reading;
    if (!reading_parse(&reading, caption))
        fail_msg("expected a readable caption, found: %s", caption);
    return reading;
}

static void every_generated_caption_is_right_in_both_lengths(void **state)
{
    (void)state;
    char caption[SCENE_CAPTION_BYTES_MAX];
    for (uint64_t i = 0; i < SCENES_TRIED; i++) {
        struct scene scene;
        scene_draw(&scene, SEED, i, (enum split)(i % SPLITS));
        scene_write_short(&scene, SEED, i, caption);
        struct reading reading = read_it(caption);
        if (!reading_groups_right(&reading, &scene))
            fail_msg("seed %d scene %d: judged wrong: %s", SEED, (int)i, caption);
        assert_int_equal(reading_background(&reading, &scene), SAYS_RIGHT);
        assert_int_equal(reading_sizes(&reading, &scene), SAYS_NOTHING);
        assert_int_equal(reading_relation(&reading, &scene), SAYS_NOTHING);

        scene_write_long(&scene, SEED, i, caption);
        reading = read_it(caption);
        if (!reading_groups_right(&reading, &scene))
            fail_msg("seed %d scene %d: judged wrong: %s", SEED, (int)i, caption);
        assert_int_equal(reading_background(&reading, &scene), SAYS_RIGHT);
        assert_int_equal(reading_sizes(&reading, &scene), SAYS_RIGHT);
        assert_int_equal(reading_relation(&reading, &scene),
                         scene.group_count == 2 ? SAYS_RIGHT : SAYS_NOTHING);
    }
}

static bool same_groups(const struct scene *a, const struct scene *b)
{
    if (a->group_count != b->group_count)
        return false;
    for (int g = 0; g < a->group_count; g++)
        if (a->groups[g].count != b->groups[g].count ||
            a->groups[g].colour != b->groups[g].colour || a->groups[g].shape != b->groups[g].shape)
            return false;
    return true;
}

static void a_caption_of_another_scene_is_right_only_if_the_groups_are_the_same(void **state)
{
    (void)state;
    char caption[SCENE_CAPTION_BYTES_MAX];
    for (uint64_t i = 0; i < SCENES_TRIED; i++) {
        struct scene told, shown;
        scene_draw(&told, SEED, i, TRAIN);
        scene_draw(&shown, SEED + 1, i, TRAIN);
        scene_write_long(&told, SEED, i, caption);
        if (judged_right(caption, &shown) != same_groups(&told, &shown))
            fail_msg("seed %d scene %d: misjudged: %s", SEED, (int)i, caption);
    }
}

static void no_scene_is_in_both_splits(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < SCENES_TRIED; i++) {
        struct scene scene;
        scene_draw(&scene, SEED, i, TRAIN);
        assert_int_equal(scene_split(&scene), TRAIN);
        scene_draw(&scene, SEED, i, HELD_OUT);
        assert_int_equal(scene_split(&scene), HELD_OUT);
    }
}

static void groups_stand_in_the_order_of_colours_and_never_share_one(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < SCENES_TRIED; i++) {
        struct scene scene;
        scene_draw(&scene, SEED, i, TRAIN);
        assert_int_equal(scene.relation == NO_RELATION, scene.group_count == 1);
        if (scene.group_count == 2)
            assert_true(scene.groups[0].colour < scene.groups[1].colour);
    }
}

static void the_same_seed_paints_the_same_pixels(void **state)
{
    (void)state;
    static uint8_t rgb[2][SCENE_PIXELS * SCENE_PIXELS * 3], owner[2][SCENE_PIXELS * SCENE_PIXELS];
    for (int run = 0; run < 2; run++) {
        struct scene scene;
        scene_draw(&scene, SEED, 7, TRAIN);
        scene_paint(&scene, SEED, 7, rgb[run], owner[run]);
    }
    assert_memory_equal(rgb[0], rgb[1], sizeof rgb[0]);
    assert_memory_equal(owner[0], owner[1], sizeof owner[0]);
}

/* Parts of one colour that hang together by edges or corners. */
static int count_parts(const uint8_t *owner, uint8_t mark)
{
    static uint8_t left[SCENE_PIXELS * SCENE_PIXELS];
    static int stack[SCENE_PIXELS * SCENE_PIXELS];
    int parts = 0;
    memcpy(left, owner, sizeof left);
    for (int start = 0; start < SCENE_PIXELS * SCENE_PIXELS; start++) {
        if (left[start] != mark)
            continue;
        int depth = 0;
        parts++;
        stack[depth++] = start;
        left[start] = 0;
        while (depth > 0) {
            int at = stack[--depth], x = at % SCENE_PIXELS, y = at / SCENE_PIXELS;
            for (int n = 0; n < 9; n++) {
                int near_x = x + n % 3 - 1, near_y = y + n / 3 - 1;
                int near = near_y * SCENE_PIXELS + near_x;
                if (near_x < 0 || near_y < 0 || near_x >= SCENE_PIXELS || near_y >= SCENE_PIXELS ||
                    left[near] != mark)
                    continue;
                left[near] = 0;
                stack[depth++] = near;
            }
        }
    }
    return parts;
}

static void as_many_separate_objects_are_painted_as_the_facts_say(void **state)
{
    (void)state;
    static uint8_t rgb[SCENE_PIXELS * SCENE_PIXELS * 3], owner[SCENE_PIXELS * SCENE_PIXELS];
    for (uint64_t i = 0; i < 1000; i++) {
        struct scene scene;
        scene_draw(&scene, SEED, i, TRAIN);
        scene_paint(&scene, SEED, i, rgb, owner);
        for (int g = 0; g < scene.group_count; g++)
            assert_int_equal(count_parts(owner, (uint8_t)(g + 1)), scene.groups[g].count);
    }
}

/* Whether all pixels of group `a` lie before all of group `b` along x (step 1) or y (step
 * SCENE_PIXELS). */
static bool lies_before(const uint8_t *owner, uint8_t a, uint8_t b, int step)
{
    int last_a = -1, first_b = SCENE_PIXELS;
    for (int i = 0; i < SCENE_PIXELS * SCENE_PIXELS; i++) {
        int place = step == 1 ? i % SCENE_PIXELS : i / SCENE_PIXELS;
        if (owner[i] == a && place > last_a)
            last_a = place;
        if (owner[i] == b && place < first_b)
            first_b = place;
    }
    return last_a < first_b;
}

static void the_relation_is_seen_in_the_picture(void **state)
{
    (void)state;
    static uint8_t rgb[SCENE_PIXELS * SCENE_PIXELS * 3], owner[SCENE_PIXELS * SCENE_PIXELS];
    for (uint64_t i = 0; i < 1000; i++) {
        struct scene scene;
        scene_draw(&scene, SEED, i, TRAIN);
        scene_paint(&scene, SEED, i, rgb, owner);
        if (scene.group_count == 1)
            continue;
        if (scene.relation == LEFT_OF)
            assert_true(lies_before(owner, 1, 2, 1));
        if (scene.relation == RIGHT_OF)
            assert_true(lies_before(owner, 2, 1, 1));
        if (scene.relation == ABOVE)
            assert_true(lies_before(owner, 1, 2, SCENE_PIXELS));
        if (scene.relation == BELOW)
            assert_true(lies_before(owner, 2, 1, SCENE_PIXELS));
    }
}

static void groups_may_come_in_any_order(void **state)
{
    (void)state;
    assert_true(
        judged_right("Two red circles and a blue ring on striped brown paper.", &two_groups));
    assert_true(judged_right("One blue ring and two red circles.", &two_groups));
    assert_true(judged_right("a single blue ring with two small red circles", &two_groups));
}

static void a_missing_or_extra_or_doubled_group_is_wrong(void **state)
{
    (void)state;
    assert_false(judged_right("Two red circles.", &two_groups));
    assert_false(judged_right("Two red circles, a blue ring and a green ring.", &two_groups));
    assert_false(judged_right("Two red circles and two red circles.", &two_groups));
    assert_false(judged_right("Three white crosses and three white crosses.", &one_group));
    assert_true(judged_right("Three white crosses.", &one_group));
}

static void each_of_count_colour_and_shape_must_be_right(void **state)
{
    (void)state;
    assert_false(judged_right("Three red circles and a blue ring.", &two_groups));
    assert_false(judged_right("Two green circles and a blue ring.", &two_groups));
    assert_false(judged_right("Two red squares and a blue ring.", &two_groups));
    assert_false(judged_right("Two blue circles and a red ring.", &two_groups));
    assert_false(judged_right("Two red rings and a blue circle.", &two_groups));
}

static void a_wrong_size_or_relation_or_background_leaves_the_groups_right(void **state)
{
    (void)state;
    const char *caption = "The image shows two large red circles above a large blue ring. The "
                          "background is plain and brown.";
    struct reading reading = read_it(caption);
    assert_true(reading_groups_right(&reading, &two_groups));
    assert_int_equal(reading_sizes(&reading, &two_groups), SAYS_WRONG);
    assert_int_equal(reading_relation(&reading, &two_groups), SAYS_WRONG);
    assert_int_equal(reading_background(&reading, &two_groups), SAYS_WRONG);
}

static void a_relation_may_be_told_from_either_side(void **state)
{
    (void)state;
    static const struct {
        const char *caption;
        enum verdict verdict;
    } cases[] = {
        {"Two red circles to the left of a blue ring.", SAYS_RIGHT},
        {"A blue ring right of two red circles.", SAYS_RIGHT},
        {"A blue ring left of two red circles.", SAYS_WRONG},
        {"Two red circles and a blue ring, with the red ones left of the blue one.", SAYS_RIGHT},
        {"Two red circles and a blue ring, with the blue one right of the red ones.", SAYS_RIGHT},
        {"Two red circles and a blue ring, with the blue one left of the red ones.", SAYS_WRONG},
        {"Two red circles and a blue ring, with the red ones left of the red ones.", SAYS_WRONG},
        {"Two red circles and a blue ring.", SAYS_NOTHING},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reading reading = read_it(cases[i].caption);
        if (reading_relation(&reading, &two_groups) != cases[i].verdict)
            fail_msg("misjudged relation: %s", cases[i].caption);
    }
}

static void a_relation_in_a_scene_of_one_group_is_wrong(void **state)
{
    (void)state;
    struct reading reading = read_it("Three white crosses above a red ring.");
    assert_int_equal(reading_relation(&reading, &one_group), SAYS_WRONG);
}

static void captions_that_say_more_than_the_judge_can_read_are_unreadable(void **state)
{
    (void)state;
    static const char *const captions[] = {
        "",
        "   ",
        ".",
        "A plain tan background.",                   /* no group */
        "Not three white crosses.",                  /* negation */
        "No red circles and three white crosses.",   /* negation */
        "Three white crosses, without a red ring.",  /* negation */
        "Three or four white crosses.",              /* alternative */
        "Five white crosses.",                       /* a count that no scene has */
        "3 white crosses.",                          /* digits */
        "Three white cross.",                        /* number */
        "One white crosses.",                        /* number */
        "Three crosses.",                            /* no colour */
        "White crosses.",                            /* no count */
        "Three white red crosses.",                  /* two colours */
        "Three white crosses rings.",                /* two shapes */
        "Three small large white crosses.",          /* two sizes */
        "Three white crosses and the red circles.",  /* an uncounted group */
        "Three white crosses and many more.",        /* unknown words */
        "Three white crosses on striped plain tan.", /* two textures */
        "Three white crosses on plain tan, grey.",   /* two tones */
        "One red ring above two blue rings below.",  /* two relations */
        "Three white-crosses.",                      /* marks inside a word */
        "Three white crosses..",                     /* marks in a row */
        "Three white crosses <|endoftext|>",         /* rubbish */
        "Three white crosses\xff",                   /* not UTF-8 */
        "a a a a a a a a a a a three",               /* stray count */
    };
    for (size_t i = 0; i < sizeof captions / sizeof captions[0]; i++)
        if (readable(captions[i]))
            fail_msg("expected an unreadable caption, found: %s", captions[i]);
}

static void a_caption_that_never_ends_is_unreadable_not_harmful(void **state)
{
    (void)state;
    static char caption[READING_BYTES_MAX * 2];
    const char *again = "two red circles and ";
    for (size_t at = 0; at + strlen(again) < sizeof caption; at += strlen(again))
        memcpy(caption + at, again, strlen(again) + 1);
    assert_false(readable(caption));
    caption[READING_BYTES_MAX - 1] = '\0';
    assert_false(readable(caption));
    caption[strlen(again) * 4] = '\0';
    assert_true(readable(caption));
    assert_false(judged_right(caption, &two_groups));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_generated_caption_is_right_in_both_lengths),
        cmocka_unit_test(a_caption_of_another_scene_is_right_only_if_the_groups_are_the_same),
        cmocka_unit_test(no_scene_is_in_both_splits),
        cmocka_unit_test(groups_stand_in_the_order_of_colours_and_never_share_one),
        cmocka_unit_test(the_same_seed_paints_the_same_pixels),
        cmocka_unit_test(as_many_separate_objects_are_painted_as_the_facts_say),
        cmocka_unit_test(the_relation_is_seen_in_the_picture),
        cmocka_unit_test(groups_may_come_in_any_order),
        cmocka_unit_test(a_missing_or_extra_or_doubled_group_is_wrong),
        cmocka_unit_test(each_of_count_colour_and_shape_must_be_right),
        cmocka_unit_test(a_wrong_size_or_relation_or_background_leaves_the_groups_right),
        cmocka_unit_test(a_relation_may_be_told_from_either_side),
        cmocka_unit_test(a_relation_in_a_scene_of_one_group_is_wrong),
        cmocka_unit_test(captions_that_say_more_than_the_judge_can_read_are_unreadable),
        cmocka_unit_test(a_caption_that_never_ends_is_unreadable_not_harmful),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
