/* tests/unit/image_test.c - pictures come out as PIL reads and resizes them; damaged ones are
 * refused with a reason. Fixtures: tests/golden/image/make.py. */
#include "tests/unit/unit.h"

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/random.h"
#include "common/image/resize.h"

enum { MAX_PIXELS = 100 * 1000 * 1000 };

struct bytes {
    uint8_t *data;
    size_t size;
};
static void bytes_release(struct bytes *bytes)
{
    free(bytes->data);
}
#define autobytes __attribute__((cleanup(bytes_release)))

/* A fixture; fails the test when it is missing. Exactly `size` bytes are allocated, so that the
 * address sanitizer sees a decoder that reads past them. */
static struct bytes fixture(const char *name)
{
    const char *root = getenv("BLIPREN_SOURCE");
    char path[4096], *data;
    struct bytes ret;
    struct bl_error err;
    snprintf(path, sizeof path, "%s/tests/golden/image/%s", root ? root : ".", name);
    assert_ok(bl_file_read(path, 1 << 20, &data, &ret.size, &err), err);
    ret.data = malloc(ret.size);
    assert_non_null(ret.data);
    memcpy(ret.data, data, ret.size);
    free(data);
    return ret;
}

/* Binary PPM, as Pillow writes it. */
static struct image ppm(const char *name)
{
    autobytes struct bytes file = fixture(name);
    int width, height, start;
    assert_int_equal(sscanf((const char *)file.data, "P6 %d %d 255%n", &width, &height, &start), 2);
    size_t size = (size_t)width * (size_t)height * 3;
    assert_int_equal(file.size, (size_t)start + 1 + size);
    struct image ret = {.width = width, .height = height, .pixels = malloc(size)};
    assert_non_null(ret.pixels);
    memcpy(ret.pixels, file.data + start + 1, size);
    return ret;
}

/* tolerance: libjpeg-turbo's vector code differs between processors by the last bit at most. */
static void assert_image_near(const struct image *found, const struct image *expected,
                              int tolerance, const char *what)
{
    if (found->width != expected->width || found->height != expected->height)
        fail_msg("%s: expected %d x %d, found %d x %d", what, (int)expected->width,
                 (int)expected->height, (int)found->width, (int)found->height);
    for (int64_t i = 0; i < found->width * found->height * 3; i++)
        if (abs(found->pixels[i] - expected->pixels[i]) > tolerance)
            fail_msg("%s: pixel %d, %d channel %d: expected %d, found %d", what,
                     (int)(i / 3 % found->width), (int)(i / 3 / found->width), (int)(i % 3),
                     expected->pixels[i], found->pixels[i]);
}

static void check_case(const char *name, const char *expected_name, int filter, int width,
                       int height)
{
    struct bl_error err;
    autobytes struct bytes file = fixture(name);
    bl_autoimage struct image expected = ppm(expected_name), image = {0};
    if (image_decode(file.data, file.size, MAX_PIXELS, &image, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    if (width == 0) {
        assert_image_near(&image, &expected, 1, name);
        return;
    }
    bl_autoimage struct image resized = {
        .width = width, .height = height, .pixels = malloc(3 * (size_t)(width * height))};
    assert_ok(image_resize(&image, width, height, filter, resized.pixels, &err), err);
    assert_image_near(&resized, &expected, 0, expected_name);
    assert_ok(image_resize_by(&resize_plain, &image, width, height, filter, resized.pixels, &err),
              err);
    assert_image_near(&resized, &expected, 0, expected_name);
}

static void every_kind_of_picture_comes_out_as_pil_reads_it(void **state)
{
    autobytes struct bytes list = fixture("cases.txt");
    FILE *lines = fmemopen(list.data, list.size, "r");
    char name[64], expected[64];
    int filter, width, height, count = 0;
    while (fscanf(lines, "%63s %63s %d %d %d", name, expected, &filter, &width, &height) == 5) {
        check_case(name, expected, filter, width, height);
        count++;
    }
    fclose(lines);
    assert_in_range(count, 80, 1000);
}

static uint32_t draw(uint32_t index, uint32_t purpose, uint32_t below)
{
    uint32_t words[4];
    bl_philox((uint32_t[4]){index, purpose, 0, 0}, (uint32_t[2]){7, 11}, words);
    return words[0] % below;
}

static void assert_same_as_plain(const struct resize_passes *passes)
{
    if (!passes)
        skip();
    struct bl_error err;
    for (uint32_t i = 0; i < 300; i++) {
        int64_t width = 1 + draw(i, 0, 150), height = 1 + draw(i, 1, 150);
        int64_t out_width = 1 + draw(i, 2, 150), out_height = 1 + draw(i, 3, 150);
        enum image_filter filter = draw(i, 4, 2) ? IMAGE_BICUBIC : IMAGE_BILINEAR;
        size_t size = (size_t)(3 * width * height), out_size = (size_t)(3 * out_width * out_height);
        bl_autoimage struct image image = {
            .width = width, .height = height, .pixels = malloc(size)};
        for (size_t p = 0; p < size; p++) /* black and white give the widest sums */
            image.pixels[p] = draw((uint32_t)p, 5 + i, 2) ? 255 : 0;
        bl_autofree uint8_t *plain = malloc(out_size), *vector = malloc(out_size);
        assert_ok(
            image_resize_by(&resize_plain, &image, out_width, out_height, filter, plain, &err),
            err);
        assert_ok(image_resize_by(passes, &image, out_width, out_height, filter, vector, &err),
                  err);
        if (memcmp(plain, vector, out_size) != 0)
            fail_msg("%s, case %u: %d x %d to %d x %d, filter %d", passes->name, i, (int)width,
                     (int)height, (int)out_width, (int)out_height, filter);
    }
}

static void avx2_and_plain_resize_give_the_same_bits(void **state)
{
    assert_same_as_plain(resize_avx2());
}

static void avx512_and_plain_resize_give_the_same_bits(void **state)
{
    assert_same_as_plain(resize_avx512());
}

static void a_resize_to_nothing_or_beyond_the_limit_is_refused(void **state)
{
    struct bl_error err;
    uint8_t pixel[3] = {1, 2, 3}, out[3];
    struct image image = {.width = 1, .height = 1, .pixels = pixel};
    assert_int_equal(image_resize(&image, 0, 5, IMAGE_BICUBIC, out, &err), -BL_ELIMIT);
    assert_string_equal(err.text, "expected sides of 1 to 65535 pixels, found 0 x 5");
    assert_int_equal(image_resize(&image, 65536, 1, IMAGE_BICUBIC, out, &err), -BL_ELIMIT);
    assert_string_equal(err.text, "expected sides of 1 to 65535 pixels, found 65536 x 1");
}

static void assert_refused(const uint8_t *data, size_t size, int64_t max_pixels, int code,
                           const char *text)
{
    struct bl_error err = {0};
    struct image untouched = {.width = 77, .height = 78, .pixels = (uint8_t *)&err};
    assert_int_equal(image_decode(data, size, max_pixels, &untouched, &err), -code);
    assert_string_equal(err.text, text);
    assert_int_equal(err.code, code);
    assert_int_equal(untouched.width, 77);
    assert_int_equal(untouched.height, 78);
    assert_ptr_equal(untouched.pixels, &err);
}

/* The first `size` bytes of a fixture, or all but -size of them. */
static void assert_cut_is_refused(const char *name, long size, const char *text)
{
    autobytes struct bytes file = fixture(name);
    autobytes struct bytes cut = {.size = size > 0 ? (size_t)size : file.size - (size_t)-size};
    cut.data = malloc(cut.size);
    memcpy(cut.data, file.data, cut.size);
    assert_refused(cut.data, cut.size, MAX_PIXELS, BL_EFORMAT, text);
}

static void other_files_are_refused_with_their_first_bytes(void **state)
{
    assert_refused((const uint8_t *)"", 0, MAX_PIXELS, BL_EFORMAT,
                   "expected an image file, found an empty one");
    assert_refused((const uint8_t *)"PSD89a\x01\0\x01\0", 10, MAX_PIXELS, BL_EFORMAT,
                   "expected a supported image format, found a file that starts with the bytes "
                   "50 53 44 38 39 61 01 00");
    assert_refused((const uint8_t *)"\xff\xd8", 2, MAX_PIXELS, BL_EFORMAT,
                   "expected a supported image format, found a file that starts with the "
                   "bytes ff d8");
}

static void truncated_files_are_refused(void **state)
{
    static const char jpeg[] = "expected a complete JPEG image, found: Premature end of JPEG file";
    static const char png[] =
        "expected a complete PNG image, found: the file ends inside the image";
    static const char webp[] =
        "expected a complete WebP image, found a damaged or truncated container";
    assert_cut_is_refused("rgb.jpg", 3, jpeg);
    assert_cut_is_refused("rgb.jpg", 300, jpeg);
    assert_cut_is_refused("rgb.jpg", -2, jpeg);
    assert_cut_is_refused("rgb.jpg", -100, jpeg);
    assert_cut_is_refused("progressive.jpg", -100, jpeg);
    assert_cut_is_refused("rgb.png", 8, png);
    assert_cut_is_refused("rgb.png", 100, png);
    assert_cut_is_refused("rgb-interlaced.png", -60, png);
    assert_cut_is_refused("lossy.webp", 12, webp);
    assert_cut_is_refused("lossy.webp", -20, webp);
    assert_cut_is_refused("lossless.webp", -2, webp);
    assert_cut_is_refused("animated.webp", 60, webp);
}

/* A fixture with one byte changed: data[at] ^= mask. */
static struct bytes damaged(const char *name, size_t at, uint8_t mask)
{
    struct bytes file = fixture(name);
    assert_in_range(at, 0, file.size - 1);
    file.data[at] ^= mask;
    return file;
}

static size_t find(const char *name, const char *bytes, size_t size)
{
    autobytes struct bytes file = fixture(name);
    uint8_t *at = memmem(file.data, file.size, bytes, size);
    assert_non_null(at);
    return (size_t)(at - file.data);
}

/* tests/evidence/field compares its pixels with PIL's. */
static void a_jpeg_with_damaged_data_decodes_and_says_so(void **state)
{
    struct bl_error err;
    autobytes struct bytes restart =
        damaged("restart.jpg", find("restart.jpg", "\xff\xd1", 2) + 1, 4);
    autobytes struct bytes whole = fixture("restart.jpg");
    bl_autoimage struct image image = {0}, sound = {0};
    assert_ok(image_decode(restart.data, restart.size, MAX_PIXELS, &image, &err), err);
    assert_true(image.damaged);
    assert_ok(image_decode(whole.data, whole.size, MAX_PIXELS, &sound, &err), err);
    assert_false(sound.damaged);
}

static void corrupt_data_is_refused_by_name(void **state)
{
    autobytes struct bytes twelve_bits = damaged("rgb.jpg", find("rgb.jpg", "\xff\xc0", 2) + 4, 4);
    assert_refused(twelve_bits.data, twelve_bits.size, MAX_PIXELS, BL_EFORMAT,
                   "expected a complete JPEG image, found: Unsupported JPEG data precision 12");
    autobytes struct bytes idat = damaged("rgb.png", find("rgb.png", "IDAT", 4) + 40, 1);
    assert_refused(idat.data, idat.size, MAX_PIXELS, BL_EFORMAT,
                   "expected a complete PNG image, found: IDAT: incorrect data check");
    autobytes struct bytes webp = damaged("lossless.webp", 20, 0xff);
    assert_refused(webp.data, webp.size, MAX_PIXELS, BL_EFORMAT,
                   "expected a complete WebP image, found a damaged or truncated container");
    autobytes struct bytes lossless = damaged("lossless.webp", 40, 0xff);
    assert_refused(lossless.data, lossless.size, MAX_PIXELS, BL_EFORMAT,
                   "expected a complete WebP image, found: damaged data");
}

static void a_picture_of_two_components_is_refused(void **state)
{
    /* Start of a JPEG, frame of 8 x 8 with two components, and a scan of both. */
    static const uint8_t two[] = {0xff, 0xd8, 0xff, 0xc0, 0,    14, 8,  0, 8, 0, 8, 2, 1, 0x11, 0,
                                  2,    0x11, 0,    0xff, 0xda, 0,  10, 2, 1, 0, 2, 0, 0, 63,   0};
    assert_refused(two, sizeof two, MAX_PIXELS, BL_EFORMAT,
                   "expected a JPEG of 1, 3 or 4 components, found 2");
}

static void a_giant_is_refused_before_any_pixel_is_allocated(void **state)
{
    autobytes struct bytes jpeg = fixture("rgb.jpg"), png = fixture("rgb.png");
    autobytes struct bytes webp = fixture("lossy.webp");
    assert_refused(jpeg.data, jpeg.size, 390, BL_ELIMIT,
                   "expected at most 390 pixels, found 23 x 17 = 391");
    assert_refused(png.data, png.size, 390, BL_ELIMIT,
                   "expected at most 390 pixels, found 23 x 17 = 391");
    assert_refused(webp.data, webp.size, 390, BL_ELIMIT,
                   "expected at most 390 pixels, found 23 x 17 = 391");
    memset(jpeg.data + find("rgb.jpg", "\xff\xc0", 2) + 5, 0xff, 4);
    assert_refused(jpeg.data, jpeg.size, MAX_PIXELS, BL_EFORMAT,
                   "expected a complete JPEG image, found: Maximum supported image dimension is "
                   "65500 pixels");
    /* A PNG head of 2^31 - 1 by 1 pixels, with its checksum. */
    static const uint8_t head[] = {0x7f, 0xff, 0xff, 0xff, 0,    0,    0,    1,   8,
                                   2,    0,    0,    0,    0x2f, 0x54, 0xa4, 0x8a};
    memcpy(png.data + 16, head, sizeof head);
    assert_refused(png.data, png.size, MAX_PIXELS, BL_ELIMIT,
                   "expected sides of at most 65535 pixels, found 2147483647 x 1 pixels");
}

static void a_file_of_endless_scans_is_refused(void **state)
{
    /* Progressive, grey, 8 x 8: quantisers of 1, one Huffman code "0" for no difference, and the
     * scan of the constant coefficient over and over. */
    static const uint8_t quantisers[] = {0xff, 0xd8, 0xff, 0xdb, 0, 67, 0};
    static const uint8_t frame[] = {0xff, 0xc2, 0, 11, 8, 0, 8, 0, 8, 1, 1, 0x11, 0};
    static const uint8_t code[] = {0xff, 0xc4, 0, 20, 0, 1};
    static const uint8_t scan[] = {0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0, 0x7f};
    uint8_t file[4096] = {0}, *end = file;
    end = mempcpy(end, quantisers, sizeof quantisers);
    memset(end, 1, 64);
    end = mempcpy(end + 64, frame, sizeof frame);
    end = mempcpy(end, code, sizeof code) + 16; /* 15 more lengths without codes; symbol 0 */
    size_t head = (size_t)(end - file);
    for (int i = 0; i < BL_JPEG_SCANS_MAX + 1; i++)
        end = mempcpy(end, scan, sizeof scan);
    end = mempcpy(end, "\xff\xd9", 2);
    assert_refused(file, (size_t)(end - file), MAX_PIXELS, BL_EFORMAT,
                   "expected a complete JPEG image, found: more than 100 scans");

    struct bl_error err;
    bl_autoimage struct image image = {0};
    memcpy(file + head + BL_JPEG_SCANS_MAX * sizeof scan, "\xff\xd9", 2);
    assert_ok(image_decode(file, head + BL_JPEG_SCANS_MAX * sizeof scan + 2, 64, &image, &err),
              err);
}

UNIT_MAIN(cmocka_unit_test(every_kind_of_picture_comes_out_as_pil_reads_it),
          cmocka_unit_test(avx2_and_plain_resize_give_the_same_bits),
          cmocka_unit_test(avx512_and_plain_resize_give_the_same_bits),
          cmocka_unit_test(a_resize_to_nothing_or_beyond_the_limit_is_refused),
          cmocka_unit_test(other_files_are_refused_with_their_first_bytes),
          cmocka_unit_test(truncated_files_are_refused),
          cmocka_unit_test(a_jpeg_with_damaged_data_decodes_and_says_so),
          cmocka_unit_test(corrupt_data_is_refused_by_name),
          cmocka_unit_test(a_picture_of_two_components_is_refused),
          cmocka_unit_test(a_giant_is_refused_before_any_pixel_is_allocated),
          cmocka_unit_test(a_file_of_endless_scans_is_refused))
