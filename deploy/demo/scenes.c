/* deploy/demo/scenes.c - blipren-demo-scenes: writes scenes as an imagefolder, or streams them to a
 * trainer.
 *   --out DIR   DIR/NAME.png and DIR/metadata.jsonl
 *   --text      the lines of metadata.jsonl alone, to stdout
 *   --raw       to stdout, for each scene: the facts (12 bytes: group_count, count colour shape
 * size of both groups, relation, texture, tone; zeros for a group that is not there), owner (64 x
 * 64 bytes), pixels (64 x 64 x 3 bytes) */
#include "deploy/demo/scene.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PATH_BYTES_MAX = 4096, FILE_NAME_BYTES_MAX = 32, COUNT_MAX = 100000000 };

struct options {
    const char *out; /* NULL: stdout */
    bool raw;
    enum split split;
    uint64_t seed;
    uint64_t first; /* index of the first scene */
    uint64_t count;
};

static const char usage[] =
    "usage: blipren-demo-scenes (--out DIR | --text | --raw) --count N [--seed S] [--first I]\n"
    "                           [--split train|held-out]\n";

/* Prints what is wrong with the command line. */
static bool wrong(const char *what, const char *expected, const char *found)
{
    fprintf(stderr, "blipren-demo-scenes: %s: expected %s, found %s; --help says how it is used\n",
            what, expected, found);
    return false;
}

static bool parse_number(const char *text, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    *ret_number = strtoull(text, &end, 10);
    return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0';
}

static bool parse_split(const char *text, enum split *ret_split)
{
    for (int split = 0; split < SPLITS; split++) {
        if (strcmp(text, split_words[split]) == 0) {
            *ret_split = (enum split)split;
            return true;
        }
    }
    return false;
}

static bool parse_options(int argc, char **argv, struct options *ret_options)
{
    static const struct option names[] = {
        {"out", required_argument, NULL, 'o'},
        {"text", no_argument, NULL, 't'},
        {"raw", no_argument, NULL, 'r'},
        {"count", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"first", required_argument, NULL, 'f'},
        {"split", required_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options options = {.split = TRAIN, .seed = 1};
    int modes = 0;
    bool good = true;
    opterr = 0;
    for (int letter; good && (letter = getopt_long(argc, argv, ":", names, NULL)) != -1;) {
        switch (letter) {
        case 'o':
            options.out = optarg;
            modes++;
            break;
        case 't':
            modes++;
            break;
        case 'r':
            options.raw = true;
            modes++;
            break;
        case 'n':
            good = (parse_number(optarg, &options.count) && options.count &&
                    options.count <= COUNT_MAX) ||
                   wrong("--count", "a number of scenes", optarg);
            break;
        case 's':
            good = parse_number(optarg, &options.seed) || wrong("--seed", "a number", optarg);
            break;
        case 'f':
            good = parse_number(optarg, &options.first) || wrong("--first", "a number", optarg);
            break;
        case 'p':
            good = parse_split(optarg, &options.split) ||
                   wrong("--split", "train or held-out", optarg);
            break;
        case 'h':
            fputs(usage, stdout);
            exit(0);
        case ':':
            good = wrong(argv[optind - 1], "a value", "none");
            break;
        default:
            good = wrong("command line", "options of this program", argv[optind - 1]);
        }
    }
    *ret_options = options;
    if (!good)
        return false;
    if (optind < argc)
        return wrong("command line", "options alone", argv[optind]);
    if (modes != 1)
        return wrong("command line", "one of --out DIR, --text and --raw", modes ? "two" : "none");
    return options.count || wrong("--count", "a number of scenes", "none");
}

static json_t *group_json(const struct group *group)
{
    return json_pack("{s:i, s:s, s:s, s:s}", "count", group->count, "colour",
                     colour_words[group->colour], "shape", shape_words[group->shape], "size",
                     size_words[group->size]);
}

static bool write_line(const struct options *options, uint64_t index, const struct scene *scene,
                       const char *file_name, FILE *file)
{
    char caption[SCENE_CAPTION_BYTES_MAX], short_caption[SCENE_CAPTION_BYTES_MAX];
    scene_write_long(scene, options->seed, index, caption);
    scene_write_short(scene, options->seed, index, short_caption);
    json_t *groups = json_array();
    for (int g = 0; g < scene->group_count; g++)
        json_array_append_new(groups, group_json(&scene->groups[g]));
    json_t *line = json_pack("{s:s, s:s, s:s, s:o, s:s, s:{s:s, s:s}}", "file_name", file_name,
                             "caption", caption, "short_caption", short_caption, "groups", groups,
                             "relation", relation_words[scene->relation], "background", "texture",
                             texture_words[scene->texture], "tone", tone_words[scene->tone]);
    bool good =
        line != NULL && json_dumpf(line, file, JSON_COMPACT) == 0 && putc('\n', file) != EOF;
    json_decref(line);
    return good;
}

static bool write_png(const char *path, const uint8_t *rgb)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = SCENE_PIXELS,
                       .height = SCENE_PIXELS,
                       .format = PNG_FORMAT_RGB};
    return png_image_write_to_file(&image, path, 0, rgb, 0, NULL) != 0;
}

static bool write_raw(const struct scene *scene, const uint8_t *rgb, const uint8_t *owner)
{
    uint8_t facts[12] = {(uint8_t)scene->group_count};
    for (int g = 0; g < scene->group_count; g++) {
        facts[1 + 4 * g] = (uint8_t)scene->groups[g].count;
        facts[2 + 4 * g] = (uint8_t)scene->groups[g].colour;
        facts[3 + 4 * g] = (uint8_t)scene->groups[g].shape;
        facts[4 + 4 * g] = (uint8_t)scene->groups[g].size;
    }
    facts[9] = (uint8_t)scene->relation;
    facts[10] = (uint8_t)scene->texture;
    facts[11] = (uint8_t)scene->tone;
    size_t pixels = SCENE_PIXELS * SCENE_PIXELS;
    return fwrite(facts, sizeof facts, 1, stdout) == 1 && fwrite(owner, pixels, 1, stdout) == 1 &&
           fwrite(rgb, 3 * pixels, 1, stdout) == 1;
}

static bool write_scene(const struct options *options, uint64_t index, FILE *metadata)
{
    static uint8_t rgb[SCENE_PIXELS * SCENE_PIXELS * 3], owner[SCENE_PIXELS * SCENE_PIXELS];
    struct scene scene;
    char file_name[FILE_NAME_BYTES_MAX], path[PATH_BYTES_MAX];
    scene_draw(&scene, options->seed, index, options->split);
    snprintf(file_name, sizeof file_name, "%06llu.png", (unsigned long long)index);
    if (options->raw || options->out)
        scene_paint(&scene, options->seed, index, rgb, owner);
    if (options->raw)
        return write_raw(&scene, rgb, owner);
    if (options->out) {
        int length = snprintf(path, sizeof path, "%s/%s", options->out, file_name);
        if (length >= PATH_BYTES_MAX || !write_png(path, rgb))
            return false;
    }
    return write_line(options, index, &scene, file_name, metadata);
}

/* stdout, or a new DIR/metadata.jsonl; NULL with errno set. */
static FILE *open_metadata(const char *out)
{
    char path[PATH_BYTES_MAX];
    if (out == NULL)
        return stdout;
    if (mkdir(out, 0777) != 0 && errno != EEXIST)
        return NULL;
    if (snprintf(path, sizeof path, "%s/metadata.jsonl", out) >= PATH_BYTES_MAX) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    return fopen(path, "w");
}

int main(int argc, char **argv)
{
    struct options options;
    if (!parse_options(argc, argv, &options))
        return 2;
    FILE *metadata = open_metadata(options.out);
    bool good = metadata != NULL;
    for (uint64_t i = 0; good && i < options.count; i++)
        good = write_scene(&options, options.first + i, metadata);
    if (metadata != NULL && fclose(metadata) != 0)
        good = false;
    if (!good) {
        fprintf(stderr, "blipren-demo-scenes: cannot write %s: %s; check the path and its room\n",
                options.out ? options.out : "to stdout", strerror(errno));
        return 1;
    }
    return 0;
}
