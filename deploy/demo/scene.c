/* deploy/demo/scene.c - drawing the facts of a scene by lot. */
#include "deploy/demo/scene.h"

const char *const colour_words[COLOURS] = {"red", "yellow", "green", "blue", "purple", "white"};
const char *const shape_words[SHAPES] = {"circle", "square", "triangle", "cross", "ring"};
const char *const shape_plural_words[SHAPES] = {"circles", "squares", "triangles", "crosses",
                                                "rings"};
const char *const size_words[SIZES] = {"small", "large"};
const char *const texture_words[TEXTURES] = {"plain", "striped", "checkered", "dotted"};
const char *const tone_words[TONES] = {"grey", "brown", "tan", "slate"};
const char *const relation_words[RELATIONS] = {"none", "left", "right", "above", "below"};
const char *const split_words[SPLITS] = {"train", "held-out"};
const char *const count_words[SCENE_COUNT_MAX + 1] = {"none", "one", "two", "three", "four"};

enum { HELD_OUT_IN = 8, PURPOSE_FACTS = 1 };

/* The finaliser of splitmix64: every input bit reaches every output bit. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

struct draw draw_start(uint64_t seed, uint64_t index, uint64_t purpose)
{
    return (struct draw){mix(mix(mix(seed + 0x9e3779b97f4a7c15u) ^ index) ^ (purpose << 56))};
}

uint64_t draw_bits(struct draw *draw)
{
    draw->state += 0x9e3779b97f4a7c15u;
    return mix(draw->state);
}

int draw_below(struct draw *draw, int choices)
{
    return (int)(((draw_bits(draw) >> 32) * (uint64_t)choices) >> 32);
}

double draw_between(struct draw *draw, double low, double high)
{
    return low + (high - low) * (double)(draw_bits(draw) >> 11) * 0x1p-53;
}

static struct group draw_group(struct draw *draw, enum colour colour)
{
    struct group group = {.colour = colour};
    group.count = 1 + draw_below(draw, SCENE_COUNT_MAX);
    group.shape = (enum shape)draw_below(draw, SHAPES);
    group.size = (enum size)draw_below(draw, SIZES);
    return group;
}

/* One group in a third of the scenes: two are harder and more numerous. */
static struct scene draw_facts(struct draw *draw)
{
    struct scene scene = {.group_count = draw_below(draw, 3) == 0 ? 1 : 2};
    int colour = draw_below(draw, COLOURS);
    if (scene.group_count == 1) {
        scene.groups[0] = draw_group(draw, (enum colour)colour);
        scene.relation = NO_RELATION;
    } else {
        int other = (colour + 1 + draw_below(draw, COLOURS - 1)) % COLOURS;
        scene.groups[0] = draw_group(draw, (enum colour)(colour < other ? colour : other));
        scene.groups[1] = draw_group(draw, (enum colour)(colour < other ? other : colour));
        scene.relation = (enum relation)(LEFT_OF + draw_below(draw, RELATIONS - LEFT_OF));
    }
    scene.texture = (enum texture)draw_below(draw, TEXTURES);
    scene.tone = (enum tone)draw_below(draw, TONES);
    return scene;
}

enum split scene_split(const struct scene *scene)
{
    uint64_t hash =
        mix((uint64_t)scene->relation * 64 + (uint64_t)scene->texture * 8 + (uint64_t)scene->tone);
    for (int g = 0; g < scene->group_count; g++) {
        const struct group *group = &scene->groups[g];
        hash = mix(hash ^ ((uint64_t)group->count << 24 | (uint64_t)group->colour << 16 |
                           (uint64_t)group->shape << 8 | (uint64_t)group->size));
    }
    return hash % HELD_OUT_IN == 0 ? HELD_OUT : TRAIN;
}

void scene_draw(struct scene *ret_scene, uint64_t seed, uint64_t index, enum split split)
{
    struct draw draw = draw_start(seed, index, PURPOSE_FACTS);
    do
        *ret_scene = draw_facts(&draw);
    while (scene_split(ret_scene) != split);
}
