/* tests/tools/source_speed.c - how long a source's rows take: source_speed PATH COLUMN... prints one JSON object.
 * Times are of the processor, so that what else runs on the machine does not count.
 *
 * open_s: opening; rows_s: identity of each row's image, in order, on one thread; random_us: the median of 2000 random
 * rows with their captions, by a source that was opened anew; anon_mb: the most memory of this process that is no file's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/data/source.h"
#include "common/random.h"

enum { RANDOM_ROWS = 2000 };

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double anon_mb(void)
{
    char line[256];
    long kb = 0;
    bl_autofclose FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %ld", &kb) == 1)
            break;
    return (double)kb / 1024;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int random_rows(const struct source_options *options, double *ret_us, struct bl_error *err)
{
    bl_auto(source) struct source *source = NULL;
    static double times[RANDOM_ROWS];
    BL_TRY(source_open(options, &source, err));
    for (uint32_t i = 0; i < RANDOM_ROWS; i++) {
        uint32_t drawn[4];
        struct source_sample sample;
        bl_draw(1, 0, i, 0, drawn);
        double began = cpu_s();
        BL_TRY(source_get(source, drawn[0] % source_count(source), &sample, err));
        times[i] = (cpu_s() - began) * 1e6;
    }
    qsort(times, RANDOM_ROWS, sizeof *times, compare);
    *ret_us = times[RANDOM_ROWS / 2];
    return 0;
}

static int measure(const struct source_options *options, struct bl_error *err)
{
    bl_auto(source) struct source *source = NULL;
    double began = cpu_s(), most_mb = 0, random_us = 0;
    uint8_t hash[32] = {0}, all = 0;
    BL_TRY(source_open(options, &source, err));
    double open_s = cpu_s() - began;
    for (uint64_t row = 0; row < source_count(source); row++) {
        bool is_url;
        BL_TRY(source_identify(source, row, &is_url, hash, err));
        all ^= hash[0];
        if (row % 100000 == 0 && anon_mb() > most_mb)
            most_mb = anon_mb();
    }
    double rows_s = cpu_s() - began - open_s;
    BL_TRY(random_rows(options, &random_us, err));
    printf("{\"rows\": %llu, \"open_s\": %.4f, \"rows_s\": %.4f, \"random_us\": %.1f, \"anon_mb\": "
           "%.1f, \"all\": %u}\n",
           (unsigned long long)source_count(source), open_s, rows_s, random_us, most_mb, all);
    return 0;
}

int main(int argc, char **argv)
{
    struct bl_error err;
    const struct source_options options = {.path = argc > 2 ? argv[1] : "",
                                           .columns = (const char *const *)(void *)(argv + 2),
                                           .column_count = argc > 2 ? (size_t)argc - 2 : 0,
                                           .cache = "/cache"};
    if (argc > 2 && measure(&options, &err) == 0)
        return 0;
    char line[1600] = "source_speed PATH COLUMN...";
    if (argc > 2)
        bl_error_format(&err, line, sizeof line);
    fprintf(stderr, "%s\n", line);
    return 1;
}
