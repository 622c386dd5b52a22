/* tests/unit/spool_test.c - a cache that training fills: what workers keep becomes the shards that embed writes, and what a kill
 * tore is missed. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cache/spool.h"
#include "common/cleanup.h"
#include "common/file_hash.h"
#include "tests/unit/folder.h"

enum { TOKENS = 3, WIDTH = 5, IMAGES = 4, SIZE = TOKENS * WIDTH };

static cache_identity images[IMAGES] = {{1, 2}, {7}, {9}, {200}};

static struct cache_form form_of(enum config_cache_dtype dtype)
{
    return (struct cache_form){.tower = "tower",
                               .preprocessing = "2x2 bicubic",
                               .precision = "f32",
                               .dtype = dtype,
                               .tokens = TOKENS,
                               .width = WIDTH,
                               .pooled = true,
                               .alone = true};
}

static void features_of(int image, float *features, float *pooled)
{
    for (int i = 0; i < SIZE; i++)
        features[i] = (float)sin(image * SIZE + i + 1) * 3;
    for (int i = 0; i < WIDTH; i++)
        pooled[i] = (float)cos(image * WIDTH + i);
}

static void keep(const struct cache_form *form, const int *which, int count)
{
    struct bl_error err;
    struct spool *spool = NULL;
    assert_ok(spool_open(folder, form, &spool, &err), err);
    for (int i = 0; i < count; i++) {
        float features[SIZE], pooled[WIDTH];
        features_of(which[i], features, pooled);
        assert_ok(spool_add(spool, images[which[i]], features, pooled, &err), err);
    }
    spool_free(&spool);
}

static uint32_t make_shard(const struct cache_form *form, const bool *is_void)
{
    struct bl_error err;
    struct spools *spools = NULL;
    uint32_t torn;
    assert_ok(spools_open(folder, form, &spools, &err), err);
    assert_ok(spools_write_shard(spools, folder, 0, 1, (const cache_identity *)images, is_void,
                                 IMAGES, &torn, &err),
              err);
    spools_free(&spools);
    return torn;
}

/* The only spool's path and size; how many there are. */
static int find_spool(char path[512], off_t *size)
{
    int found = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat st;
        if (!strstr(entry->d_name, ".spool"))
            continue;
        snprintf(path, 512, "%s/%s", folder, entry->d_name);
        assert_int_equal(stat(path, &st), 0);
        *size = st.st_size;
        found++;
    }
    closedir(dir);
    return found;
}

/* embed's way: of the features themselves, image 2 void. */
static void embed(const char *name, const struct cache_form *form)
{
    struct bl_error err;
    float features[3 * SIZE], pooled[3 * WIDTH];
    cache_identity rows[3];
    for (int i = 0; i < 3; i++) {
        int image = i == 2 ? 3 : i;
        features_of(image, features + i * SIZE, pooled + i * WIDTH);
        memcpy(rows[i], images[image], 32);
    }
    const struct cache_shard shard = {.count = 1,
                                      .images = (const cache_identity *)rows,
                                      .image_count = 3,
                                      .voids = (const cache_identity *)&images[2],
                                      .void_count = 1,
                                      .features = features,
                                      .pooled = pooled};
    assert_ok(bl_folder_make(name, &err), err);
    assert_ok(cache_write_shard(name, form, &shard, &err), err);
}

static void what_several_workers_keep_is_the_shard_that_embed_writes(void **state)
{
    static const bool voids[IMAGES] = {false, false, true, true}; /* the last is kept: no void */
    for (int dtype = CONFIG_CACHE_F16; dtype <= CONFIG_CACHE_INT8; dtype++) {
        struct cache_form form = form_of((enum config_cache_dtype)dtype);
        char a[65], b[65];
        keep(&form, (const int[]){3, 0, 3}, 3);
        keep(&form, (const int[]){1, 0}, 2);
        assert_int_equal(make_shard(&form, voids), 0);
        embed(inside("embedded"), &form);
        assert_int_equal(bl_file_sha256(inside("features-00000-of-00001.arrow"), a, NULL), 0);
        assert_int_equal(bl_file_sha256(inside("embedded/features-00000-of-00001.arrow"), b, NULL),
                         0);
        assert_string_equal(a, b);
        spools_remove(folder);
        char path[512];
        off_t size;
        assert_int_equal(find_spool(path, &size), 0);
    }
}

static void training_sees_what_the_cache_will_give(void **state)
{
    struct cache_form form = form_of(CONFIG_CACHE_INT8);
    static const bool voids[IMAGES] = {false, true, true, true};
    struct bl_error err;
    struct spool *spool = NULL;
    struct features *cache = NULL;
    float features[SIZE], pooled[WIDTH], read[SIZE];
    uint64_t row;
    assert_ok(spool_open(folder, &form, &spool, &err), err);
    features_of(0, features, pooled);
    assert_ok(spool_add(spool, images[0], features, pooled, &err), err);
    spool_free(&spool);
    assert_int_equal(make_shard(&form, voids), 0);
    assert_ok(features_open(folder, &form, &cache, &err), err);
    assert_int_equal(features_find(cache, images[0], &row), FEATURES_ROW);
    features_read(cache, row, read, NULL);
    assert_memory_equal(read, features, sizeof read);
    assert_int_equal(features_find(cache, images[1], &row), FEATURES_VOID);
    features_free(&cache);
}

static void a_record_is_kept_once_and_a_torn_one_again(void **state)
{
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    static const bool voids[IMAGES] = {false};
    char path[512];
    off_t all, cut, more;
    keep(&form, (const int[]){0, 1, 2, 3, 3, 0}, 6);
    assert_int_equal(find_spool(path, &all), 1);
    assert_int_equal(truncate(path, all - 1), 0);
    assert_int_equal(make_shard(&form, voids), 1);
    assert_false(bl_path_is_file(inside("features-00000-of-00001.arrow")));
    FILE *file = fopen(path, "r+b"); /* a byte of the first record's features */
    assert_int_equal(fseek(file, 48 + 32 + 16 + 3, SEEK_SET), 0);
    assert_int_equal(fputc(0x55, file), 0x55);
    fclose(file);
    assert_int_equal(make_shard(&form, voids), 2);
    assert_int_equal(find_spool(path, &cut), 1);
    keep(&form, (const int[]){0, 1, 2, 3}, 4);
    unlink(path);
    assert_int_equal(find_spool(path, &more), 1);
    assert_int_equal(more, 48 + (all - 48) / 2); /* the two that were not whole */
}

static void spools_of_another_form_are_refused_by_name(void **state)
{
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    struct bl_error err;
    struct spools *spools = NULL;
    struct spool *spool = NULL;
    char path[512];
    off_t size;
    keep(&form, (const int[]){0}, 1);
    find_spool(path, &size);
    form.alone = false;
    assert_int_equal(spools_open(folder, &form, &spools, &err), -BL_ECONFIG);
    assert_string_equal(err.file, path);
    assert_int_equal(spool_open(folder, &form, &spool, &err), -BL_ECONFIG);
    assert_string_equal(err.remedy, "remove it, or set another cache.path");
}

static void a_feature_that_does_not_fit_names_its_image(void **state)
{
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    struct bl_error err;
    struct spool *spool = NULL;
    float features[SIZE] = {[4] = 70000}, pooled[WIDTH] = {0};
    assert_ok(spool_open(folder, &form, &spool, &err), err);
    assert_int_equal(spool_add(spool, images[1], features, pooled, &err), -BL_ELIMIT);
    assert_string_equal(err.text,
                        "image 0700000000000000…: the feature 70000 is too large for f16");
    spool_free(&spool);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(IN_FOLDER(what_several_workers_keep_is_the_shard_that_embed_writes),
          IN_FOLDER(training_sees_what_the_cache_will_give),
          IN_FOLDER(a_record_is_kept_once_and_a_torn_one_again),
          IN_FOLDER(spools_of_another_form_are_refused_by_name),
          IN_FOLDER(a_feature_that_does_not_fit_names_its_image))
