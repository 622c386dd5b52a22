/* tests/unit/cache_test.c - the feature cache: what is written is read to within its rounding, and what does not fit is named. */
#include "tests/unit/unit.h"

#include <math.h>

#include "common/cache/cache.h"
#include "common/cleanup.h"
#include "tests/unit/folder.h"

enum { TOKENS = 3, WIDTH = 4, IMAGES = 2, COUNT = IMAGES * TOKENS * WIDTH };

static struct cache_form form_of(enum config_cache_dtype dtype)
{
    return (struct cache_form){.tower = "towertowertower",
                               .preprocessing = "2x2 bicubic",
                               .precision = "f32",
                               .dtype = dtype,
                               .tokens = TOKENS,
                               .width = WIDTH,
                               .pooled = true};
}

static cache_identity images[] = {{1, 2}, {7}, {9}};

static void fill(float *x)
{
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)sin(i + 1) * (float)(i % 5 + 1);
}

/* Shard 0 of 1: two rows, and a void image between them. */
static void write_shard(const struct cache_form *form)
{
    struct bl_error err;
    float features[COUNT], pooled[IMAGES * WIDTH] = {[5] = 0.1f};
    fill(features);
    cache_identity rows[IMAGES];
    memcpy(rows[0], images[0], 32);
    memcpy(rows[1], images[2], 32);
    const struct cache_shard shard = {.count = 1,
                                      .images = (const cache_identity *)rows,
                                      .image_count = IMAGES,
                                      .voids = (const cache_identity *)&images[1],
                                      .void_count = 1,
                                      .features = features,
                                      .pooled = pooled};
    assert_ok(cache_write_shard(folder, form, &shard, &err), err);
}

static int look(const struct cache_form *form, bool *there, struct bl_error *why,
                struct bl_error *err)
{
    return cache_look(folder, form, 0, 1, (const cache_identity *)images, 3, true, there, why, err);
}

static void features_are_read_to_within_their_rounding(void **state)
{
    static const double rounding[] = {[CONFIG_CACHE_F16] = 0x1p-11,
                                      [CONFIG_CACHE_F32] = 0,
                                      [CONFIG_CACHE_BF16] = 0x1p-8,
                                      [CONFIG_CACHE_INT8] = 0.5 / 127};
    float expected[COUNT];
    fill(expected);
    for (enum config_cache_dtype dtype = CONFIG_CACHE_F16; dtype <= CONFIG_CACHE_INT8; dtype++) {
        struct bl_error err;
        struct cache_form form = form_of(dtype);
        bl_auto(features) struct features *c = NULL;
        write_shard(&form);
        assert_ok(features_open(folder, &form, &c, &err), err);
        assert_int_equal(features_rows(c), 2);
        assert_int_equal(features_voids(c), 1);
        uint64_t row;
        assert_int_equal(features_find(c, images[1], &row), FEATURES_VOID);
        assert_int_equal(features_find(c, (const uint8_t[32]){5}, &row), FEATURES_ABSENT);
        for (int i = 0; i < IMAGES; i++) {
            float features[TOKENS * WIDTH], pooled[WIDTH];
            assert_int_equal(features_find(c, images[2 * i], &row), FEATURES_ROW);
            features_read(c, row, features, pooled);
            assert_true(pooled[1] == (i ? 0.1f : 0));
            float packed[TOKENS * WIDTH + TOKENS + WIDTH], unpacked[TOKENS * WIDTH], far[WIDTH];
            assert_in_range(cache_row_bytes(&form), 1, sizeof packed);
            features_pack(c, row, packed);
            features_unpack(&form, packed, unpacked, far);
            assert_memory_equal(unpacked, features, sizeof features);
            assert_memory_equal(far, pooled, sizeof pooled);
            for (int k = 0; k < TOKENS * WIDTH; k++) {
                double x = (double)expected[i * TOKENS * WIDTH + k], most = fabs(x);
                for (int j = 0; dtype == CONFIG_CACHE_INT8 && j < WIDTH; j++)
                    most = fmax(most, fabs((double)expected[(i * TOKENS + k / WIDTH) * WIDTH + j]));
                assert_true(fabs((double)features[k] - x) <= rounding[dtype] * most);
            }
        }
    }
}

static void f16_is_rounded_as_the_hardware_does(void **state)
{
    static const struct {
        float x;
        uint16_t half;
    } cases[] = {{0, 0},
                 {-0.0f, 0x8000},
                 {1, 0x3c00},
                 {65504, 0x7bff},
                 {65519.996f, 0x7bff},
                 {0x1p-14f, 0x0400},
                 {0x1p-24f, 0x0001},
                 {0x1p-25f, 0x0000},
                 {0x1.8p-24f, 0x0002},
                 {1.00048828125f, 0x3c00},
                 {1.00146484375f, 0x3c02},
                 {0x1.ff8p-15f, 0x03ff},
                 {0x1.ffcp-15f, 0x0400}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint16_t half;
        float back;
        size_t at;
        assert_int_equal(numbers_store(CONFIG_CACHE_F16, &half, NULL, &cases[i].x, 1, 1, &at),
                         NUMBER_FITS);
        assert_int_equal(half, cases[i].half);
        numbers_load(CONFIG_CACHE_F16, &back, &half, NULL, 1, 1);
        uint16_t again;
        assert_int_equal(numbers_store(CONFIG_CACHE_F16, &again, NULL, &back, 1, 1, &at),
                         NUMBER_FITS);
        assert_int_equal(again, half);
    }
}

static void a_feature_that_does_not_fit_is_refused_by_name(void **state)
{
    struct bl_error err;
    float features[TOKENS * WIDTH] = {[7] = 65520}, pooled[WIDTH] = {0};
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    struct cache_shard shard = {.count = 1,
                                .images = (const cache_identity *)images,
                                .image_count = 1,
                                .features = features,
                                .pooled = pooled};
    assert_int_equal(cache_write_shard(folder, &form, &shard, &err), -BL_ELIMIT);
    assert_string_equal(err.text,
                        "image 0102000000000000…: the feature 65520 is too large for f16");
    assert_string_equal(err.key, "cache.dtype");
    features[7] = NAN;
    assert_int_equal(cache_write_shard(folder, &form, &shard, &err), -BL_EDATA);
    assert_string_equal(err.text, "image 0102000000000000…: a feature is not finite");
    bool there;
    struct bl_error why;
    assert_ok(look(&form, &there, &why, &err), err);
    assert_false(there || why.code);
}

static void a_shard_is_a_function_of_its_content(void **state)
{
    struct bl_error err;
    bl_autofree char *first = NULL, *second = NULL;
    size_t sizes[2];
    struct cache_form form = form_of(CONFIG_CACHE_INT8);
    const char *path = inside("features-00000-of-00001.arrow");
    write_shard(&form);
    assert_ok(bl_file_read(path, 1 << 20, &first, &sizes[0], &err), err);
    write_shard(&form);
    assert_ok(bl_file_read(path, 1 << 20, &second, &sizes[1], &err), err);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(first, second, sizes[0]);
}

static void a_stale_shard_is_refused_by_what_differs(void **state)
{
    struct bl_error err, why;
    bool there;
    struct features *c = NULL;
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    write_shard(&form);
    assert_ok(look(&form, &there, &why, &err), err);
    assert_true(there);
    strcpy(form.tower, "another");
    assert_int_equal(look(&form, &there, &why, &err), -BL_ECONFIG);
    assert_string_equal(
        err.text,
        "a cache of other features: expected the vision tower another, found towertowertower");
    assert_int_equal(features_open(folder, &form, &c, &err), -BL_ECONFIG);
    form = form_of(CONFIG_CACHE_BF16);
    assert_int_equal(features_open(folder, &form, &c, &err), -BL_ECONFIG);
    assert_string_equal(err.text,
                        "a cache of other features: expected cache.dtype bf16, found f16");
    form = form_of(CONFIG_CACHE_F16);
    form.alone = true;
    assert_int_equal(features_open(folder, &form, &c, &err), -BL_ECONFIG);
    assert_string_equal(
        err.text, "a cache of other features: expected images computed alone, found together");
    form = form_of(CONFIG_CACHE_F16);
    form.width = 5;
    assert_int_equal(features_open(folder, &form, &c, &err), -BL_ECONFIG);
    assert_non_null(strstr(
        err.text, "expected features fixed_size_list<fixed_size_list<halffloat>[5]>[3], found"));
    form = form_of(CONFIG_CACHE_F16);
    assert_int_equal(cache_look(folder, &form, 0, 1, (const cache_identity *)images, 2, true,
                                &there, &why, &err),
                     -BL_ECONFIG);
    assert_string_equal(err.text, "a cache of other images than this run's");
}

static void a_torn_or_missing_shard_is_refused_by_name(void **state)
{
    struct bl_error err, why;
    bool there;
    bl_autofree char *data = NULL;
    size_t size;
    struct features *c = NULL;
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    const char *path = inside("features-00000-of-00001.arrow");
    write_shard(&form);
    assert_ok(bl_file_read(path, 1 << 20, &data, &size, &err), err);
    assert_ok(bl_file_write(path, data, size - 1, &err), err);
    assert_ok(look(&form, &there, &why, &err), err);
    assert_false(there);
    assert_string_equal(why.text,
                        "expected a whole Arrow file, found no mark at its end: it is cut off");
    assert_int_equal(features_open(folder, &form, &c, &err), -BL_EFORMAT);
    assert_string_equal(err.file, path);
    data[size / 2] ^= 1;
    assert_ok(bl_file_write(path, data, size, &err), err);
    assert_ok(look(&form, &there, &why, &err), err);
    assert_false(there);
    assert_int_equal(why.code, BL_EFORMAT);
    data[size / 2] ^= 1;
    assert_ok(bl_file_write(inside("features-00001-of-00002.arrow"), data, size, &err), err);
    assert_int_equal(remove(path), 0);
    assert_int_equal(features_open(folder, &form, &c, &err), -BL_EFORMAT);
    assert_string_equal(err.text, "this part of the cache is missing");
    assert_string_equal(err.file, inside("features-00000-of-00002.arrow"));
}

static void a_folder_without_shards_is_no_cache(void **state)
{
    struct bl_error err;
    struct features *c = NULL;
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    assert_ok(features_open(folder, &form, &c, &err), err);
    assert_null(c);
    assert_ok(features_open(inside("none"), &form, &c, &err), err);
    assert_null(c);
}

static void what_an_interrupted_writer_left_goes_and_foreign_shards_are_named(void **state)
{
    struct bl_error err;
    char foreign[4096];
    struct cache_form form = form_of(CONFIG_CACHE_F16);
    write_shard(&form);
    assert_ok(bl_file_write(inside("features-00000-of-00001.arrow.tmp.12"), "x", 1, &err), err);
    assert_ok(cache_tidy(folder, 1, foreign, &err), err);
    assert_string_equal(foreign, "");
    assert_false(bl_path_is_file(inside("features-00000-of-00001.arrow.tmp.12")));
    assert_ok(cache_tidy(folder, 2, foreign, &err), err);
    assert_string_equal(foreign, inside("features-00000-of-00001.arrow"));
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
UNIT_MAIN(IN_FOLDER(features_are_read_to_within_their_rounding),
          cmocka_unit_test(f16_is_rounded_as_the_hardware_does),
          IN_FOLDER(a_feature_that_does_not_fit_is_refused_by_name),
          IN_FOLDER(a_shard_is_a_function_of_its_content),
          IN_FOLDER(a_stale_shard_is_refused_by_what_differs),
          IN_FOLDER(a_torn_or_missing_shard_is_refused_by_name),
          IN_FOLDER(a_folder_without_shards_is_no_cache),
          IN_FOLDER(what_an_interrupted_writer_left_goes_and_foreign_shards_are_named))
