/* deploy/demo/paint.c - a scene's pixels. */
#include "deploy/demo/scene.h"

#include <math.h>
#include <string.h>

enum {
    PURPOSE_PAINT = 2,
    CELL_PIXELS = SCENE_PIXELS / SCENE_CELLS,
    SAMPLES = 3, /* SAMPLES x SAMPLES points of a pixel are tested, which smooths edges */
};

struct rgb {
    double r, g, b;
};

struct object {
    double x, y, radius; /* centre and half extent, in pixels */
    enum shape shape;
};

static const struct rgb colour_values[COLOURS] = {
    {222, 38, 38}, {240, 214, 40}, {46, 174, 62}, {44, 84, 226}, {160, 52, 190}, {244, 244, 244},
};
static const struct rgb tone_values[TONES] = {
    {116, 116, 116}, {100, 74, 52}, {172, 150, 118}, {70, 92, 118}};
static const double radius_low[SIZES] = {4.0, 6.2};
static const double radius_high[SIZES] = {4.7, 6.9};

static double clamp_byte(double value)
{
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

/* -1 or 1: which of the texture's two shades a pixel has. */
static int texture_sign(enum texture texture, int x, int y, int period, int slant)
{
    switch (texture) {
    case STRIPED:
        return (x + slant * y + 2 * SCENE_PIXELS) / period % 2 ? 1 : -1;
    case CHECKERED:
        return (x / period + y / period) % 2 ? 1 : -1;
    case DOTTED:
        return x % (2 * period) < 2 && y % (2 * period) < 2 ? 1 : -1;
    default:
        return 0;
    }
}

static void paint_background(const struct scene *scene, struct draw *draw, uint8_t *rgb)
{
    struct rgb base = tone_values[scene->tone];
    double shade = draw_between(draw, 0.92, 1.08);
    double contrast = draw_between(draw, 14, 22);
    int period = 3 + draw_below(draw, 3);
    int slant = draw_below(draw, 3) - 1;
    int shift_x = draw_below(draw, 8), shift_y = draw_below(draw, 8);
    for (int y = 0; y < SCENE_PIXELS; y++) {
        for (int x = 0; x < SCENE_PIXELS; x++) {
            double add =
                contrast * texture_sign(scene->texture, x + shift_x, y + shift_y, period, slant);
            add += draw_between(draw, -6, 6);
            uint8_t *rgb_xy = rgb + 3 * (y * SCENE_PIXELS + x);
            rgb_xy[0] = (uint8_t)clamp_byte(base.r * shade + add);
            rgb_xy[1] = (uint8_t)clamp_byte(base.g * shade + add);
            rgb_xy[2] = (uint8_t)clamp_byte(base.b * shade + add);
        }
    }
}

/* Whether the point (dx, dy), in radii from the object's centre, y downward, lies in the shape. */
static bool shape_covers(enum shape shape, double dx, double dy)
{
    double distance = sqrt(dx * dx + dy * dy);
    switch (shape) {
    case CIRCLE:
        return distance <= 1;
    case SQUARE:
        return fabs(dx) <= 0.92 && fabs(dy) <= 0.92;
    case TRIANGLE: /* tip upward */
        return dy <= 0.9 && dy >= -1 && fabs(dx) <= (dy + 1) / 1.9;
    case CROSS:
        return fmin(fabs(dx), fabs(dy)) <= 0.3 && fmax(fabs(dx), fabs(dy)) <= 1;
    case RING:
        return distance <= 1 && distance >= 0.55;
    default:
        return false;
    }
}

static double pixel_cover(const struct object *object, int x, int y)
{
    int hits = 0;
    for (int i = 0; i < SAMPLES * SAMPLES; i++) {
        double dx = x + (i % SAMPLES + 0.5) / SAMPLES - object->x;
        double dy = y + (i / SAMPLES + 0.5) / SAMPLES - object->y;
        hits += shape_covers(object->shape, dx / object->radius, dy / object->radius);
    }
    return (double)hits / (SAMPLES * SAMPLES);
}

static void paint_object(const struct object *object, struct rgb colour, uint8_t mark, uint8_t *rgb,
                         uint8_t *owner)
{
    int x_low = (int)(object->x - object->radius), x_high = (int)(object->x + object->radius);
    int y_low = (int)(object->y - object->radius), y_high = (int)(object->y + object->radius);
    for (int y = y_low; y <= y_high; y++) {
        for (int x = x_low; x <= x_high; x++) {
            double cover = pixel_cover(object, x, y);
            uint8_t *rgb_xy = rgb + 3 * (y * SCENE_PIXELS + x);
            rgb_xy[0] = (uint8_t)clamp_byte(rgb_xy[0] + cover * (colour.r - rgb_xy[0]));
            rgb_xy[1] = (uint8_t)clamp_byte(rgb_xy[1] + cover * (colour.g - rgb_xy[1]));
            rgb_xy[2] = (uint8_t)clamp_byte(rgb_xy[2] + cover * (colour.b - rgb_xy[2]));
            if (cover >= 0.5)
                owner[y * SCENE_PIXELS + x] = mark;
        }
    }
}

/* Whether a cell is of the part of the image that the relation gives to group g. */
static bool cell_allowed(enum relation relation, int g, int column, int row)
{
    bool first_half = relation == LEFT_OF || relation == RIGHT_OF ? column < SCENE_CELLS / 2
                                                                  : row < SCENE_CELLS / 2;
    bool group_first = (relation == LEFT_OF || relation == ABOVE) == (g == 0);
    return relation == NO_RELATION || first_half == group_first;
}

/* The cells of a scene's objects, by group. */
struct layout {
    int cells[SCENE_GROUPS_MAX][SCENE_COUNT_MAX]; /* row * SCENE_CELLS + column */
};

/* Draws the cells of group g in its part of the image, without repetition. */
static void draw_cells(struct draw *draw, const struct scene *scene, int g, struct layout *layout)
{
    int free_cells[SCENE_CELLS * SCENE_CELLS], free_count = 0;
    for (int cell = 0; cell < SCENE_CELLS * SCENE_CELLS; cell++)
        if (cell_allowed(scene->relation, g, cell % SCENE_CELLS, cell / SCENE_CELLS))
            free_cells[free_count++] = cell;
    for (int i = 0; i < scene->groups[g].count; i++) {
        int pick = draw_below(draw, free_count);
        layout->cells[g][i] = free_cells[pick];
        free_cells[pick] = free_cells[--free_count];
    }
}

/* The column of a group's cell or, where the groups lie side by side, its row: what must not part
 * them too. */
static int cross_place(const struct scene *scene, int cell)
{
    bool beside = scene->relation == LEFT_OF || scene->relation == RIGHT_OF;
    return beside ? cell / SCENE_CELLS : cell % SCENE_CELLS;
}

/* Whether another relation holds as well as the scene's: left of, say, where it says above. */
static bool layout_ambiguous(const struct scene *scene, const struct layout *layout)
{
    int low[SCENE_GROUPS_MAX], high[SCENE_GROUPS_MAX];
    if (scene->relation == NO_RELATION)
        return false;
    for (int g = 0; g < SCENE_GROUPS_MAX; g++) {
        low[g] = SCENE_CELLS;
        high[g] = -1;
        for (int i = 0; i < scene->groups[g].count; i++) {
            int place = cross_place(scene, layout->cells[g][i]);
            low[g] = place < low[g] ? place : low[g];
            high[g] = place > high[g] ? place : high[g];
        }
    }
    return high[0] < low[1] || high[1] < low[0];
}

static void draw_layout(struct draw *draw, const struct scene *scene, struct layout *ret_layout)
{
    do
        for (int g = 0; g < scene->group_count; g++)
            draw_cells(draw, scene, g, ret_layout);
    while (layout_ambiguous(scene, ret_layout));
}

/* An object of the group somewhere in the cell. */
static struct object draw_object(struct draw *draw, const struct group *group, int cell)
{
    struct object object = {.shape = group->shape};
    object.radius = draw_between(draw, radius_low[group->size], radius_high[group->size]);
    double play = CELL_PIXELS / 2.0 - 0.6 - object.radius;
    object.x = (cell % SCENE_CELLS + 0.5) * CELL_PIXELS + draw_between(draw, -play, play);
    object.y = (cell / SCENE_CELLS + 0.5) * CELL_PIXELS + draw_between(draw, -play, play);
    return object;
}

void scene_paint(const struct scene *scene, uint64_t seed, uint64_t index, uint8_t *ret_rgb,
                 uint8_t *ret_owner)
{
    struct draw draw = draw_start(seed, index, PURPOSE_PAINT);
    struct layout layout = {0};
    memset(ret_owner, 0, SCENE_PIXELS * SCENE_PIXELS);
    paint_background(scene, &draw, ret_rgb);
    draw_layout(&draw, scene, &layout);
    for (int g = 0; g < scene->group_count; g++) {
        const struct group *group = &scene->groups[g];
        struct rgb colour = colour_values[group->colour];
        double shade = draw_between(&draw, 0.92, 1.04);
        colour = (struct rgb){colour.r * shade, colour.g * shade, colour.b * shade};
        for (int i = 0; i < group->count; i++) {
            struct object object = draw_object(&draw, group, layout.cells[g][i]);
            paint_object(&object, colour, (uint8_t)(g + 1), ret_rgb, ret_owner);
        }
    }
}
