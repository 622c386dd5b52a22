/* deploy/demo/wording.c - captions of a scene: one truth in many wordings. */
#include "deploy/demo/scene.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

enum { PURPOSE_SHORT = 3, PURPOSE_LONG = 4, PHRASE_BYTES_MAX = 160 };

struct text {
    char *bytes; /* SCENE_CAPTION_BYTES_MAX of them, always NUL-terminated */
    size_t length;
};

__attribute__((format(printf, 2, 3))) static void text_add(struct text *text, const char *format,
                                                           ...)
{
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(text->bytes + text->length, SCENE_CAPTION_BYTES_MAX - text->length,
                           format, arguments);
    va_end(arguments);
    assert(wanted >= 0 && text->length + (size_t)wanted < SCENE_CAPTION_BYTES_MAX);
    text->length += (size_t)wanted;
}

static const char *pick(struct draw *draw, const char *const *phrases, int count)
{
    return phrases[draw_below(draw, count)];
}

#define PICK(draw, ...)                                                                            \
    pick(draw, (const char *const[]){__VA_ARGS__},                                                 \
         (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

/* "two small red circles"; one object is "a", "one" or "a single". */
static void write_group(const struct group *group, struct draw *draw, bool with_size,
                        char phrase[PHRASE_BYTES_MAX])
{
    const char *count =
        group->count == 1 ? PICK(draw, "a", "one", "a single") : count_words[group->count];
    const char *noun =
        group->count == 1 ? shape_words[group->shape] : shape_plural_words[group->shape];
    snprintf(phrase, PHRASE_BYTES_MAX, "%s %s%s%s %s", count,
             with_size ? size_words[group->size] : "", with_size ? " " : "",
             colour_words[group->colour], noun);
}

static void write_list(const struct scene *scene, struct draw *draw, struct text *text)
{
    char phrase[PHRASE_BYTES_MAX];
    write_group(&scene->groups[0], draw, false, phrase);
    text_add(text, "%s", phrase);
    if (scene->group_count == 2) {
        write_group(&scene->groups[1], draw, false, phrase);
        text_add(text, " %s %s", PICK(draw, "and", "with", "and then"), phrase);
    }
}

void scene_write_short(const struct scene *scene, uint64_t seed, uint64_t index,
                       char ret_text[SCENE_CAPTION_BYTES_MAX])
{
    struct draw draw = draw_start(seed, index, PURPOSE_SHORT);
    struct text text = {ret_text, 0};
    const char *texture = texture_words[scene->texture], *tone = tone_words[scene->tone];
    switch (draw_below(&draw, 4)) {
    case 0:
        text_add(&text, "A %s %s background with ", texture, tone);
        write_list(scene, &draw, &text);
        text_add(&text, ".");
        break;
    case 1:
        write_list(scene, &draw, &text);
        text_add(&text, " on %s %s paper.", texture, tone);
        break;
    default:
        write_list(scene, &draw, &text);
        text_add(&text, " %s a %s %s background.", PICK(&draw, "on", "over", "against"), texture,
                 tone);
    }
    ret_text[0] = (char)toupper((unsigned char)ret_text[0]);
}

static const char *pick_relation(struct draw *draw, enum relation relation)
{
    switch (relation) {
    case LEFT_OF:
        return PICK(draw, "to the left of", "left of");
    case RIGHT_OF:
        return PICK(draw, "to the right of", "right of");
    case ABOVE:
        return PICK(draw, "above", "higher than");
    default:
        return PICK(draw, "below", "under");
    }
}

/* Everything about the groups: "two small red circles above a large blue ring". */
static void write_groups(const struct scene *scene, struct draw *draw, struct text *text)
{
    const struct group *groups = scene->groups;
    char first[PHRASE_BYTES_MAX], second[PHRASE_BYTES_MAX];
    write_group(&groups[0], draw, true, first);
    if (scene->group_count == 1) {
        text_add(text, "%s%s", first, PICK(draw, "", " and nothing else", " alone"));
        return;
    }
    write_group(&groups[1], draw, true, second);
    const char *relation = pick_relation(draw, scene->relation);
    if (draw_below(draw, 2))
        text_add(text, "%s %s %s", first, relation, second);
    else
        text_add(text, "%s and %s, with the %s %s %s the %s %s", first, second,
                 colour_words[groups[0].colour], groups[0].count == 1 ? "one" : "ones", relation,
                 colour_words[groups[1].colour], groups[1].count == 1 ? "one" : "ones");
}

void scene_write_long(const struct scene *scene, uint64_t seed, uint64_t index,
                      char ret_text[SCENE_CAPTION_BYTES_MAX])
{
    struct draw draw = draw_start(seed, index, PURPOSE_LONG);
    struct text text = {ret_text, 0};
    bool one = scene->group_count == 1 && scene->groups[0].count == 1;
    text_add(&text, "%s ",
             PICK(&draw, "The image shows", "This picture shows", "A simple drawing of",
                  scene->groups[0].count == 1 ? "In this picture there is"
                                              : "In this picture there are"));
    write_groups(scene, &draw, &text);
    const char *texture = texture_words[scene->texture], *tone = tone_words[scene->tone];
    switch (draw_below(&draw, 4)) {
    case 0:
        text_add(&text, ". The background is %s and %s.", texture, tone);
        break;
    case 1:
        text_add(&text, ". Behind %s is a %s %s background.", one ? "it" : "them", texture, tone);
        break;
    case 2:
        text_add(&text, ", all drawn on %s %s paper.", texture, tone);
        break;
    default:
        text_add(&text, ". Everything lies on a %s %s background.", texture, tone);
    }
}
