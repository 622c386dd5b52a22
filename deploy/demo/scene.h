/* deploy/demo/scene.h - what a demo scene holds, and the words for it.
 * A scene is one or two groups of equal objects on a textured background. Groups stand in the order
 * of enum colour, and captions name them in that order; the two groups of a scene differ in colour.
 * Everything about a scene follows from (seed, index): no state, so scene i can be made without
 * scene i - 1. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SCENE_PIXELS = 64, /* side of the image */
    SCENE_CELLS = 4,   /* an object lies in a cell of its own: SCENE_CELLS x SCENE_CELLS of them */
    SCENE_GROUPS_MAX = 2,
    SCENE_COUNT_MAX = 4, /* objects of one group */
    SCENE_OBJECTS_MAX = SCENE_GROUPS_MAX * SCENE_COUNT_MAX,
    SCENE_CAPTION_BYTES_MAX = 512,
};

enum colour { RED, YELLOW, GREEN, BLUE, PURPLE, WHITE, COLOURS };
enum shape { CIRCLE, SQUARE, TRIANGLE, CROSS, RING, SHAPES };
enum size { SMALL, LARGE, SIZES };
enum texture { PLAIN, STRIPED, CHECKERED, DOTTED, TEXTURES };
enum tone { GREY, BROWN, TAN, SLATE, TONES };
/* Where the first group lies, seen from the second. */
enum relation { NO_RELATION, LEFT_OF, RIGHT_OF, ABOVE, BELOW, RELATIONS };
/* The two halves of all possible scenes: models and captioners learn from TRAIN alone. */
enum split { TRAIN, HELD_OUT, SPLITS };

extern const char *const colour_words[COLOURS];
extern const char *const shape_words[SHAPES];        /* singular */
extern const char *const shape_plural_words[SHAPES]; /* plural */
extern const char *const size_words[SIZES];
extern const char *const texture_words[TEXTURES];
extern const char *const tone_words[TONES];
extern const char *const relation_words[RELATIONS]; /* "none" for NO_RELATION */
extern const char *const split_words[SPLITS];
extern const char *const count_words[SCENE_COUNT_MAX + 1]; /* [1] is "one" */

struct group {
    int count; /* 1 .. SCENE_COUNT_MAX */
    enum colour colour;
    enum shape shape;
    enum size size;
};

struct scene {
    int group_count; /* 1 or 2 */
    struct group groups[SCENE_GROUPS_MAX];
    enum relation relation; /* NO_RELATION exactly when there is one group */
    enum texture texture;
    enum tone tone;
};

/* A counter-based generator (splitmix64): the same key gives the same numbers everywhere. */
struct draw {
    uint64_t state;
};

struct draw draw_start(uint64_t seed, uint64_t index, uint64_t purpose);
uint64_t draw_bits(struct draw *draw);
/* 0 .. choices - 1; choices > 0. */
int draw_below(struct draw *draw, int choices);
/* low <= x < high. */
double draw_between(struct draw *draw, double low, double high);

/* Which half a scene belongs to: a hash of all its facts, one eighth of all scenes being HELD_OUT.
 * So whatever seed a set is made from, no scene of one half has its facts in the other. */
enum split scene_split(const struct scene *scene);

/* Scene `index` of the endless row of scenes of `split` that starts from `seed`. */
void scene_draw(struct scene *ret_scene, uint64_t seed, uint64_t index, enum split split);

/* Writes a truthful caption of the scene: counts, colours and shapes of every group and the
 * background; the long one sizes and the relation too. The wording follows from (seed, index). */
void scene_write_short(const struct scene *scene, uint64_t seed, uint64_t index,
                       char ret_text[SCENE_CAPTION_BYTES_MAX]);
void scene_write_long(const struct scene *scene, uint64_t seed, uint64_t index,
                      char ret_text[SCENE_CAPTION_BYTES_MAX]);

/* Paints the scene. Placement, exact sizes and shades follow from (seed, index).
 *   ret_rgb (SCENE_PIXELS, SCENE_PIXELS, 3) u8, row-major
 *   ret_owner (SCENE_PIXELS, SCENE_PIXELS) u8: 0 = background, g + 1 = an object of groups[g] */
void scene_paint(const struct scene *scene, uint64_t seed, uint64_t index, uint8_t *ret_rgb,
                 uint8_t *ret_owner);
