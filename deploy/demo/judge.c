/* deploy/demo/judge.c - blipren-demo-judge: holds captions against the scenes they were written
 * for.
 *   --truth FILE      metadata.jsonl as blipren-demo-scenes writes it
 *   --captions FILE   lines of `blipren-worker caption --json` (file_name, caption, ended); may be
 * given twice
 *   --show-wrong      prints every caption whose groups are not right, to stderr
 * Prints one line:
 *   judge: right=0.934 ended=0.998 n=500 size=0.981 relation=0.950 background=0.999
 * right: the share of captions whose groups are exactly the scene's; ended: the share that ended by
 * themselves; n: the number of captions. The last three are shares of those captions that say
 * something of the kind ("-" if none does). */
#include "deploy/demo/reading.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CAPTION_FILES_MAX = 8 };

struct options {
    const char *truth;
    const char *captions[CAPTION_FILES_MAX];
    int caption_files;
    bool show_wrong;
};

struct share {
    int right, said;
};

struct tally {
    int captions, right, ended;
    struct share size, relation, background;
};

static int fail(const char *file, long line, const char *text)
{
    if (line)
        fprintf(stderr, "blipren-demo-judge: %s:%ld: %s; give what the demo wrote\n", file, line,
                text);
    else
        fprintf(stderr, "blipren-demo-judge: %s: %s; give what the demo wrote\n", file, text);
    return 1;
}

/* The index of text[key] in a table of words, or -1. */
static int word_index(const json_t *object, const char *key, const char *const *table, int count)
{
    const char *word = json_string_value(json_object_get(object, key));
    for (int i = 0; word != NULL && i < count; i++)
        if (strcmp(word, table[i]) == 0)
            return i;
    return -1;
}

static bool read_group(const json_t *object, struct group *ret_group)
{
    json_int_t count = json_integer_value(json_object_get(object, "count"));
    int colour = word_index(object, "colour", colour_words, COLOURS);
    int shape = word_index(object, "shape", shape_words, SHAPES);
    int size = word_index(object, "size", size_words, SIZES);
    if (count < 1 || count > SCENE_COUNT_MAX || colour < 0 || shape < 0 || size < 0)
        return false;
    *ret_group =
        (struct group){(int)count, (enum colour)colour, (enum shape)shape, (enum size)size};
    return true;
}

static bool read_scene(const json_t *line, struct scene *ret_scene)
{
    const json_t *groups = json_object_get(line, "groups");
    const json_t *background = json_object_get(line, "background");
    int relation = word_index(line, "relation", relation_words, RELATIONS);
    int texture = word_index(background, "texture", texture_words, TEXTURES);
    int tone = word_index(background, "tone", tone_words, TONES);
    size_t group_count = json_array_size(groups);
    if (group_count < 1 || group_count > SCENE_GROUPS_MAX || relation < 0 || texture < 0 ||
        tone < 0)
        return false;
    struct scene scene = {.group_count = (int)group_count,
                          .relation = (enum relation)relation,
                          .texture = (enum texture)texture,
                          .tone = (enum tone)tone};
    for (size_t g = 0; g < group_count; g++)
        if (!read_group(json_array_get(groups, g), &scene.groups[g]))
            return false;
    *ret_scene = scene;
    return true;
}

/* Calls visit(line, number, context) for every line of a file of JSON objects; stops at the first
 * that fails. */
static int each_line(const char *path,
                     int (*visit)(const char *path, long number, const json_t *line, void *context),
                     void *context)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return fail(path, 0, strerror(errno));
    }
    char *text = NULL;
    size_t capacity = 0;
    int result = 0;
    for (long number = 1; result == 0 && getline(&text, &capacity, file) >= 0; number++) {
        json_t *line = json_loads(text, 0, NULL);
        result = json_is_object(line) ? visit(path, number, line, context)
                                      : fail(path, number, "expected a JSON object");
        json_decref(line);
    }
    if (result == 0 && ferror(file))
        result = fail(path, 0, "cannot be read to its end");
    free(text);
    fclose(file);
    return result;
}

static int keep_truth(const char *path, long number, const json_t *line, void *truth)
{
    const char *name = json_string_value(json_object_get(line, "file_name"));
    if (name == NULL)
        return fail(path, number, "no file_name");
    if (json_object_set_new(truth, name, json_deep_copy(line)) != 0)
        return fail(path, number, "out of memory");
    return 0;
}

static void share_add(struct share *share, enum verdict verdict)
{
    share->said += verdict != SAYS_NOTHING;
    share->right += verdict == SAYS_RIGHT;
}

struct judging {
    json_t *truth; /* file_name to line */
    struct tally tally;
    bool show_wrong;
};

static void judge_caption(struct judging *judging, const char *name, const struct scene *scene,
                          const char *caption)
{
    struct tally *tally = &judging->tally;
    struct reading reading;
    bool readable = reading_parse(&reading, caption);
    bool right = readable && reading_groups_right(&reading, scene);
    tally->right += right;
    if (!right && judging->show_wrong)
        fprintf(stderr, "%s: %s: %s\n", name, readable ? "wrong" : "unreadable", caption);
    if (!readable)
        return;
    share_add(&tally->size, reading_sizes(&reading, scene));
    share_add(&tally->relation, reading_relation(&reading, scene));
    share_add(&tally->background, reading_background(&reading, scene));
}

static int judge_line(const char *path, long number, const json_t *line, void *context)
{
    struct judging *judging = context;
    const char *name = json_string_value(json_object_get(line, "file_name"));
    const char *caption = json_string_value(json_object_get(line, "caption"));
    const json_t *ended = json_object_get(line, "ended");
    if (name == NULL || caption == NULL || !json_is_boolean(ended))
        return fail(path, number, "expected file_name, caption and ended");
    const char *slash = strrchr(name, '/'); /* captions may name the image by its path */
    name = slash == NULL ? name : slash + 1;
    const json_t *truth = json_object_get(judging->truth, name);
    struct scene scene;
    if (truth == NULL)
        return fail(path, number, "its image is not among the truths");
    if (!read_scene(truth, &scene))
        return fail(path, number, "the truth of its image is incomplete");
    judging->tally.captions++;
    judging->tally.ended += json_is_true(ended);
    judge_caption(judging, name, &scene, caption);
    return 0;
}

static void print_share(const char *name, struct share share)
{
    if (share.said == 0)
        printf(" %s=-", name);
    else
        printf(" %s=%.3f", name, (double)share.right / share.said);
}

static const char usage[] =
    "usage: blipren-demo-judge --truth FILE --captions FILE [--captions FILE]... [--show-wrong]\n";

static bool wrong(const char *text, const char *found)
{
    fprintf(stderr, "blipren-demo-judge: %s%s; --help says how it is used\n", text, found);
    return false;
}

static bool parse_options(int argc, char **argv, struct options *ret_options)
{
    static const struct option names[] = {
        {"truth", required_argument, NULL, 't'},
        {"captions", required_argument, NULL, 'c'},
        {"show-wrong", no_argument, NULL, 'w'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options options = {0};
    bool good = true;
    opterr = 0;
    for (int letter; good && (letter = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (letter == 't')
            options.truth = optarg;
        else if (letter == 'c' && options.caption_files < CAPTION_FILES_MAX)
            options.captions[options.caption_files++] = optarg;
        else if (letter == 'w')
            options.show_wrong = true;
        else if (letter == 'h') {
            fputs(usage, stdout);
            exit(0);
        } else {
            good = wrong("not an option here, or one without its value: ", argv[optind - 1]);
        }
    }
    *ret_options = options;
    if (!good)
        return false;
    if (optind < argc)
        return wrong("unexpected argument ", argv[optind]);
    return options.truth && options.caption_files ? true
                                                  : wrong("expected --truth and --captions", "");
}

int main(int argc, char **argv)
{
    struct options options;
    if (!parse_options(argc, argv, &options))
        return 2;
    struct judging judging = {.truth = json_object(), .show_wrong = options.show_wrong};
    int result = each_line(options.truth, keep_truth, judging.truth);
    for (int i = 0; result == 0 && i < options.caption_files; i++)
        result = each_line(options.captions[i], judge_line, &judging);
    json_decref(judging.truth);
    const struct tally *tally = &judging.tally;
    if (result == 0 && tally->captions == 0)
        result = fail(options.captions[0], 0, "no captions to judge");
    if (result != 0)
        return result;
    printf("judge: right=%.3f ended=%.3f n=%d", (double)tally->right / tally->captions,
           (double)tally->ended / tally->captions, tally->captions);
    print_share("size", tally->size);
    print_share("relation", tally->relation);
    print_share("background", tally->background);
    putchar('\n');
    return 0;
}
