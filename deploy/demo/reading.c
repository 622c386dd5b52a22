/* deploy/demo/reading.c - reading captions. */
#include "deploy/demo/reading.h"

#include <ctype.h>
#include <string.h>

enum { WORDS_MAX = 256 };

#define LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Words that claim nothing by themselves. */
static const char *const filler_words[] = {
    "a",      "alone",   "all",   "and",     "are",        "against", "background",
    "behind", "drawing", "drawn", "else",    "everything", "in",      "is",
    "image",  "it",      "lies",  "nothing", "of",         "on",      "over",
    "paper",  "picture", "shows", "simple",  "than",       "the",     "them",
    "then",   "there",   "this",  "to",      "with",
};

static const struct {
    const char *word;
    enum relation relation;
} relation_cues[] = {
    {"left", LEFT_OF}, {"right", RIGHT_OF}, {"above", ABOVE},
    {"higher", ABOVE}, {"below", BELOW},    {"under", BELOW},
};

struct words {
    char bytes[READING_BYTES_MAX];
    const char *word[WORDS_MAX + 1]; /* after the last one, an empty word */
    int count;
};

/* The index of a word in a table, or UNSAID. */
static int find(const char *word, const char *const *table, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(word, table[i]) == 0)
            return i;
    return UNSAID;
}

/* Cuts at blanks; "." and "," end a word and may stand nowhere else. Lower case throughout. */
static bool split_words_of(struct words *words, const char *caption)
{
    size_t length = strlen(caption), at = 0;
    if (length >= READING_BYTES_MAX)
        return false;
    for (size_t i = 0; i <= length; i++)
        words->bytes[i] = (char)tolower((unsigned char)caption[i]);
    words->count = 0;
    while (at < length) {
        at += strspn(words->bytes + at, " \n\t");
        size_t letters = strspn(words->bytes + at, "abcdefghijklmnopqrstuvwxyz");
        size_t marks = strspn(words->bytes + at + letters, ".,");
        size_t end = at + letters + marks;
        bool closed = words->bytes[end] == '\0' || strchr(" \n\t", words->bytes[end]) != NULL;
        if (at == length)
            break;
        if (letters == 0 || marks > 1 || !closed || words->count == WORDS_MAX)
            return false;
        words->word[words->count++] = words->bytes + at;
        words->bytes[at + letters] = '\0';
        at = end < length ? end + 1 : length;
    }
    words->word[words->count] = "";
    return words->count > 0;
}

/* Reads "two small red circles" at words[0]. Returns the words taken; 0 if no group stands there.
 */
static int take_claim(const char *const *word, struct claim *ret_claim)
{
    int taken = 1;
    int count = find(word[0], count_words, SCENE_COUNT_MAX + 1);
    if (strcmp(word[0], "a") == 0) {
        count = 1;
        taken += strcmp(word[1], "single") == 0;
    }
    if (count < 1)
        return 0;
    struct claim claim = {.count = count, .size = find(word[taken], size_words, SIZES)};
    taken += claim.size != UNSAID;
    claim.colour = find(word[taken], colour_words, COLOURS);
    if (claim.colour == UNSAID)
        return 0;
    claim.shape = find(word[taken + 1], count == 1 ? shape_words : shape_plural_words, SHAPES);
    if (claim.shape == UNSAID)
        return 0;
    *ret_claim = claim;
    return taken + 2;
}

/* Reads "the red ones" at words[0]: a group named before. Returns the words taken, or 0. */
static int take_mention(const char *const *word, int *ret_colour)
{
    if (strcmp(word[0], "the") != 0)
        return 0;
    int colour = find(word[1], colour_words, COLOURS);
    if (colour == UNSAID || (strcmp(word[2], "one") != 0 && strcmp(word[2], "ones") != 0))
        return 0;
    *ret_colour = colour;
    return 3;
}

/* Says a thing once: false if another value was said before. */
static bool say(int *said, int value)
{
    bool fresh = *said == UNSAID || *said == value;
    *said = value;
    return fresh;
}

/* A word outside of groups: a relation, part of the background, or filler. */
static bool read_word(struct reading *reading, const char *word, int last_colour)
{
    for (int i = 0; i < LENGTH(relation_cues); i++) {
        if (strcmp(word, relation_cues[i].word) == 0) {
            reading->subject = last_colour;
            return reading->relation == UNSAID &&
                   say(&reading->relation, (int)relation_cues[i].relation);
        }
    }
    int texture = find(word, texture_words, TEXTURES), tone = find(word, tone_words, TONES);
    if (texture != UNSAID)
        return say(&reading->texture, texture);
    if (tone != UNSAID)
        return say(&reading->tone, tone);
    return find(word, filler_words, LENGTH(filler_words)) != UNSAID;
}

bool reading_parse(struct reading *ret_reading, const char *caption)
{
    struct words words;
    struct reading reading = {
        .relation = UNSAID, .subject = UNSAID, .object = UNSAID, .texture = UNSAID, .tone = UNSAID};
    if (!split_words_of(&words, caption))
        return false;
    int last_colour = UNSAID;
    for (int i = 0; i < words.count;) {
        struct claim claim;
        int mentioned = UNSAID;
        int taken = take_claim(&words.word[i], &claim);
        if (taken > 0) {
            if (reading.claim_count == READING_GROUPS_MAX)
                return false;
            reading.claims[reading.claim_count++] = claim;
            mentioned = claim.colour;
        } else {
            taken = take_mention(&words.word[i], &mentioned);
        }
        if (taken == 0) {
            if (!read_word(&reading, words.word[i], last_colour))
                return false;
            taken = 1;
        }
        if (mentioned != UNSAID) {
            if (reading.relation != UNSAID && reading.object == UNSAID)
                reading.object = mentioned;
            last_colour = mentioned;
        }
        i += taken;
    }
    *ret_reading = reading;
    return reading.claim_count > 0;
}

static bool claim_is(const struct claim *claim, const struct group *group)
{
    return claim->count == group->count && claim->colour == (int)group->colour &&
           claim->shape == (int)group->shape;
}

/* A scene's groups differ in colour, so each can bear out one claim only. */
bool reading_groups_right(const struct reading *reading, const struct scene *scene)
{
    if (reading->claim_count != scene->group_count)
        return false;
    for (int g = 0; g < scene->group_count; g++) {
        bool found = false;
        for (int c = 0; c < reading->claim_count; c++)
            found |= claim_is(&reading->claims[c], &scene->groups[g]);
        if (!found)
            return false;
    }
    return true;
}

static const struct group *group_of_colour(const struct scene *scene, int colour)
{
    for (int g = 0; g < scene->group_count; g++)
        if ((int)scene->groups[g].colour == colour)
            return &scene->groups[g];
    return NULL;
}

enum verdict reading_sizes(const struct reading *reading, const struct scene *scene)
{
    enum verdict verdict = SAYS_NOTHING;
    for (int c = 0; c < reading->claim_count; c++) {
        const struct claim *claim = &reading->claims[c];
        if (claim->size == UNSAID)
            continue;
        const struct group *group = group_of_colour(scene, claim->colour);
        if (group == NULL || claim->size != (int)group->size)
            return SAYS_WRONG;
        verdict = SAYS_RIGHT;
    }
    return verdict;
}

enum verdict reading_relation(const struct reading *reading, const struct scene *scene)
{
    static const enum relation reversed[RELATIONS] = {NO_RELATION, RIGHT_OF, LEFT_OF, BELOW, ABOVE};
    if (reading->relation == UNSAID)
        return SAYS_NOTHING;
    if (scene->group_count != 2)
        return SAYS_WRONG;
    int first = (int)scene->groups[0].colour, second = (int)scene->groups[1].colour;
    bool forward = reading->subject == first && reading->object == second &&
                   reading->relation == (int)scene->relation;
    bool backward = reading->subject == second && reading->object == first &&
                    reading->relation == (int)reversed[scene->relation];
    return forward || backward ? SAYS_RIGHT : SAYS_WRONG;
}

enum verdict reading_background(const struct reading *reading, const struct scene *scene)
{
    if (reading->texture == UNSAID && reading->tone == UNSAID)
        return SAYS_NOTHING;
    return reading->texture == (int)scene->texture && reading->tone == (int)scene->tone
               ? SAYS_RIGHT
               : SAYS_WRONG;
}
