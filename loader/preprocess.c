/* loader/preprocess.c - `blipren-loader preprocess`: images as the vision model sees them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/image/processor.h"
#include "common/json.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/picture/picture.h"
#include "common/utf8.h"
#include "loader/commands.h"

struct preprocess {
    const struct preprocess_options *options;
    struct image_processor processor;
    uint8_t *pixels; /* (side, side, 3) */
    json_t *written; /* names in options->into, as keys */
    FILE *out;
    int bad;
};

/* What becomes of one image. */
struct outcome {
    int64_t width, height;
    char sha256[65];
    char png[4096]; /* "" without --into */
};

/* INTO/NAME.png, NAME being the image's without folders; INTO/NAME-2.png and so on for further ones of that name. */
static int choose_png(struct preprocess *p, const char *image, char ret[4096], struct bl_error *err)
{
    const char *slash = strrchr(image, '/');
    char name[600], key[600];
    for (int number = 1;; number++) {
        if (number == 1)
            snprintf(name, sizeof name, "%.500s.png", slash ? slash + 1 : image);
        else
            snprintf(name, sizeof name, "%.500s-%d.png", slash ? slash + 1 : image, number);
        snprintf(key, sizeof key, "%s", name);
        utf8_repair(key); /* what jansson takes; alike then counts as the same */
        if (!json_object_get(p->written, key))
            break;
    }
    BL_TRY(bl_json_put(p->written, key, json_true(), err));
    return bl_path_join(ret, 4096, p->options->into, name, err);
}

static int read_image(struct preprocess *p, const char *image, struct outcome *ret,
                      struct bl_error *err)
{
    bl_autofree char *data = NULL;
    struct image_facts facts;
    uint8_t hash[32];
    size_t size = 0;
    BL_TRY(bl_file_read(image, BL_IMAGE_FILE_BYTES_MAX, &data, &size, err));
    BL_TRY(image_processor_run(&p->processor, (const uint8_t *)data, size, p->pixels, &facts, err));
    ret->width = facts.width;
    ret->height = facts.height;
    bl_sha256(p->pixels, (size_t)p->processor.side * p->processor.side * 3, hash);
    bl_hex(hash, sizeof hash, ret->sha256);
    return 0;
}

/* One line, whatever the name holds. */
static void print_name(FILE *out, const char *name)
{
    char clean[4096];
    snprintf(clean, sizeof clean, "%s", name);
    utf8_clean(clean);
    fputs(clean, out);
}

static void print_columns(const struct preprocess *p, const char *image, const struct outcome *o)
{
    print_name(p->out, image);
    fprintf(p->out, "\t%" PRId64 "\t%" PRId64 "\t%u\t%s", o->width, o->height, p->processor.side,
            o->sha256);
    if (*o->png) {
        fputc('\t', p->out);
        print_name(p->out, o->png);
    }
    fputc('\n', p->out);
}

/* Takes the object over. */
static int print_json(const struct preprocess *p, json_t *object, struct bl_error *err)
{
    bl_autofree char *line = NULL;
    bl_autojson json_t *owned = object;
    BL_TRY(bl_json_line(owned, 17, &line, err));
    fprintf(p->out, "%s\n", line);
    return 0;
}

static int print_image(const struct preprocess *p, const char *image, const struct outcome *o,
                       struct bl_error *err)
{
    if (!p->options->json) {
        print_columns(p, image, o);
        return 0;
    }
    json_t *object = json_pack("{s:o, s:I, s:I, s:I, s:s}", "file_name", bl_json_text(image),
                               "width", (json_int_t)o->width, "height", (json_int_t)o->height,
                               "side", (json_int_t)p->processor.side, "sha256", o->sha256);
    if (object && *o->png && bl_json_put(object, "png", bl_json_text(o->png), err) < 0) {
        json_decref(object);
        return -BL_ENOMEM;
    }
    return print_json(p, object, err);
}

static int print_failure(struct preprocess *p, const char *image, struct bl_error *why,
                         struct bl_error *err)
{
    p->bad++;
    if (p->options->json)
        return print_json(p,
                          json_pack("{s:o, s:o}", "file_name", bl_json_text(image), "error",
                                    bl_json_text(why->text)),
                          err);
    print_name(p->out, image);
    fprintf(p->out, "\terror\t%s\n", why->text);
    bl_error_file(why, image);
    bl_log_error(why);
    return 0;
}

static int preprocess_one(struct preprocess *p, const char *image, struct bl_error *err)
{
    struct outcome outcome = {0};
    struct bl_error why;
    if (read_image(p, image, &outcome, &why) < 0)
        return print_failure(p, image, &why, err);
    if (p->options->into) {
        BL_TRY(choose_png(p, image, outcome.png, err));
        struct picture picture = {p->processor.side, p->processor.side, p->pixels};
        BL_TRY(picture_write(&picture, outcome.png, err));
    }
    return print_image(p, image, &outcome, err);
}

int preprocess_run(const struct preprocess_options *o, char *const *images, int count, FILE *out,
                   struct bl_error *err)
{
    struct preprocess p = {.options = o, .out = out};
    BL_TRY(image_processor_open(o->model, o->max_pixels, &p.processor, err));
    size_t size = (size_t)p.processor.side * p.processor.side * 3;
    bl_autofree uint8_t *pixels = p.pixels = malloc(size);
    bl_autojson json_t *written = p.written = json_object();
    if (!pixels || !written)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes of pixels", size);
    if (o->into)
        BL_TRY(bl_folder_make(o->into, err));
    for (int i = 0; i < count; i++)
        BL_TRY(preprocess_one(&p, images[i], err));
    if (fflush(out) != 0)
        return bl_fail_errno(err, "the output cannot be written");
    if (!p.bad)
        return 0;
    bl_fail(err, BL_EDATA, "%d of %d images cannot be read", p.bad, count);
    return bl_error_remedy(err, "each one's line says why");
}
