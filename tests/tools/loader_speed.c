/* tests/tools/loader_speed.c - what an image costs from its source to the model's pixels, on one core.
 *
 *   loader_speed SOURCE SIZE COUNT SEED COLUMN
 *
 * Reads COUNT images of a source in random order, decodes each and resizes it to SIZE x SIZE (bicubic). Prints one line: seconds of
 * the processor for all of it, opening the source not counted; sum of all bytes of the results. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/data/source.h"
#include "common/image/image.h"
#include "common/random.h"

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int make(const struct location *location, int64_t side, uint8_t *out, struct bl_error *err)
{
    bl_autofree char *data = NULL;
    bl_autoimage struct image image = {0};
    size_t size;
    BL_TRY(location_read(location, 1 << 27, &data, &size, NULL, err));
    BL_TRY(image_decode((const uint8_t *)data, size, 100000000, &image, err));
    return image_resize(&image, side, side, IMAGE_BICUBIC, out, err);
}

static int measure(const struct source *source, int64_t side, int count, uint64_t seed,
                   struct bl_error *err)
{
    uint64_t samples = source_count(source);
    size_t out_bytes = (size_t)(side * side * 3);
    bl_autofree uint8_t *out = malloc(out_bytes);
    double took = 0;
    unsigned long long sum = 0;
    if (!out)
        return bl_fail(err, BL_ENOMEM, "no memory for pixels");
    for (int i = 0; i < count; i++) {
        bl_autofree char *text = NULL;
        struct location location;
        uint64_t epoch = (uint64_t)i / samples, index = (uint64_t)i % samples;
        uint64_t id = bl_permute(seed, epoch, samples, index);
        BL_TRY(source_locate(source, id, &text, err)); /* of the index, in a run */
        BL_TRY(location_parse(text, &location, err));
        double start = seconds();
        BL_TRY(make(&location, side, out, err));
        took += seconds() - start;
        for (size_t p = 0; p < out_bytes; p++)
            sum += out[p];
    }
    printf("%.6f %llu\n", took, sum);
    return 0;
}

int main(int argc, char **argv)
{
    struct bl_error err;
    bl_auto(source) struct source *source = NULL;
    char line[1600];
    if (argc != 6) {
        fprintf(stderr, "usage: loader_speed SOURCE SIZE COUNT SEED COLUMN\n");
        return 2;
    }
    const char *columns[] = {argv[5]};
    const struct source_options options = {
        .path = argv[1], .columns = columns, .column_count = 1, .cache = "/cache"};
    if (source_open(&options, &source, &err) == 0 &&
        measure(source, atoll(argv[2]), atoi(argv[3]), (uint64_t)atoll(argv[4]), &err) == 0)
        return 0;
    bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "loader_speed: %s\n", line);
    return 1;
}
