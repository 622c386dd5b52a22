/* common/picture/picture.c - canvas, shapes, images, heat maps, PNG. */
#include "common/picture/picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/size.h"

/* Not a number becomes low. */
static double clamp(double x, double low, double high)
{
    return x > low ? (x < high ? x : high) : low;
}

static uint8_t to_byte(double x)
{
    return (uint8_t)(clamp(x, 0, 255) + 0.5);
}

/* Okabe and Ito, "Color universal design", 2008; the dark ones first, yellow darkened for white paper.
 */
struct colour colour_series(size_t index)
{
    static const struct colour colours[] = {{0, 114, 178},   {213, 94, 0},  {0, 158, 115},
                                            {204, 121, 167}, {230, 159, 0}, {86, 180, 233},
                                            {60, 60, 60},    {190, 180, 20}};
    return colours[index % (sizeof colours / sizeof *colours)];
}

/* One channel of linear light to sRGB's byte (IEC 61966-2-1). */
static uint8_t encode_light(double x)
{
    x = clamp(x, 0, 1);
    return to_byte(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * pow(x, 1 / 2.4) - 0.055));
}

/* B. Ottosson, "A perceptual color space for image processing", 2020: lightness, and a and b as chroma
 * and hue, to the cone responses' cube roots, to linear light. */
static struct colour from_oklab(double lightness, double chroma, double hue)
{
    double a = chroma * cos(hue), b = chroma * sin(hue);
    double l = pow(lightness + 0.3963377774 * a + 0.2158037573 * b, 3);
    double m = pow(lightness - 0.1055613458 * a - 0.0638541728 * b, 3);
    double s = pow(lightness - 0.0894841775 * a - 1.2914855480 * b, 3);
    return (struct colour){encode_light(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
                           encode_light(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
                           encode_light(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)};
}

struct colour colour_heat(double t)
{
    t = clamp(t, 0, 1);
    double hue = (-70 + 170 * t) * 3.14159265358979 / 180;
    return from_oklab(0.18 + 0.77 * t, 0.06 + 0.11 * sin(3.14159265358979 * (0.12 + 0.8 * t)), hue);
}

int picture_init(struct picture *picture, int64_t width, int64_t height, struct colour background,
                 struct bl_error *err)
{
    if (width < 1 || height < 1 || width > BL_IMAGE_SIDE_MAX || height > BL_IMAGE_SIDE_MAX)
        return bl_fail(err, BL_ELIMIT,
                       "expected an image with sides of 1 to %d pixels, found %lld x %lld",
                       BL_IMAGE_SIDE_MAX, (long long)width, (long long)height);
    uint8_t *pixels = malloc((size_t)(width * height * 3));
    if (!pixels)
        return bl_fail(err, BL_ENOMEM, "no memory for an image of %lld x %lld pixels",
                       (long long)width, (long long)height);
    *picture = (struct picture){width, height, pixels};
    picture_fill(picture, (struct box){0, 0, width, height}, background);
    return 0;
}

void picture_release(struct picture *picture)
{
    free(picture->pixels);
    *picture = (struct picture){0};
}

/* The part of the box that lies on the canvas; may be empty (width or height 0 or less). */
static struct box clip(const struct picture *picture, struct box box)
{
    int64_t left = bl_max(box.x, 0), right = bl_min(box.x + box.width, picture->width);
    int64_t top = bl_max(box.y, 0), bottom = bl_min(box.y + box.height, picture->height);
    return (struct box){left, top, right - left, bottom - top};
}

static uint8_t *pixel_at(struct picture *picture, int64_t x, int64_t y)
{
    return picture->pixels + 3 * (y * picture->width + x);
}

static void blend(uint8_t *pixel, struct colour colour, double share)
{
    pixel[0] = to_byte(pixel[0] + share * (colour.r - pixel[0]));
    pixel[1] = to_byte(pixel[1] + share * (colour.g - pixel[1]));
    pixel[2] = to_byte(pixel[2] + share * (colour.b - pixel[2]));
}

void picture_fill(struct picture *picture, struct box box, struct colour colour)
{
    box = clip(picture, box);
    for (int64_t y = box.y; y < box.y + box.height; y++)
        for (int64_t x = box.x; x < box.x + box.width; x++)
            memcpy(pixel_at(picture, x, y), &colour, 3);
}

void picture_frame(struct picture *picture, struct box box, struct colour colour)
{
    picture_fill(picture, (struct box){box.x, box.y, box.width, 1}, colour);
    picture_fill(picture, (struct box){box.x, box.y + box.height - 1, box.width, 1}, colour);
    picture_fill(picture, (struct box){box.x, box.y, 1, box.height}, colour);
    picture_fill(picture, (struct box){box.x + box.width - 1, box.y, 1, box.height}, colour);
}

/* A pixel is covered by how deep its centre lies within half the thickness of the segment. */
void picture_line(struct picture *picture, double x0, double y0, double x1, double y1,
                  double thickness, struct colour colour)
{
    double reach = thickness / 2 + 0.5;
    double dx = x1 - x0, dy = y1 - y0, length_squared = dx * dx + dy * dy;
    double left = clamp(fmin(x0, x1) - reach, -1e6, 1e6),
           top = clamp(fmin(y0, y1) - reach, -1e6, 1e6);
    double right = clamp(fmax(x0, x1) + reach, -1e6, 1e6);
    double bottom = clamp(fmax(y0, y1) + reach, -1e6, 1e6);
    struct box box = {(int64_t)floor(left), (int64_t)floor(top), 0, 0};
    box.width = (int64_t)ceil(right) - box.x;
    box.height = (int64_t)ceil(bottom) - box.y;
    box = clip(picture, box);
    for (int64_t y = box.y; y < box.y + box.height; y++)
        for (int64_t x = box.x; x < box.x + box.width; x++) {
            double px = (double)x + 0.5 - x0, py = (double)y + 0.5 - y0;
            double along =
                length_squared > 0 ? clamp((px * dx + py * dy) / length_squared, 0, 1) : 0;
            double distance = hypot(px - along * dx, py - along * dy);
            double share = clamp(reach - distance, 0, 1);
            if (share > 0)
                blend(pixel_at(picture, x, y), colour, share);
        }
}

/* What a row or column of the result takes from the source: triangle weights around its centre, wide
 * enough to average when it shrinks. */
struct tap {
    int64_t first, count;
    double center, reach;
};

static struct tap tap_at(int64_t i, int64_t to, int64_t from)
{
    double scale = (double)from / (double)to, reach = scale > 1 ? scale : 1;
    double center = ((double)i + 0.5) * scale - 0.5;
    int64_t first = bl_max((int64_t)floor(center - reach) + 1, 0);
    int64_t last = bl_min((int64_t)ceil(center + reach) - 1, from - 1);
    return (struct tap){first, last - first + 1, center, reach};
}

static double tap_weight(const struct tap *tap, int64_t t)
{
    return 1 - fabs((double)(tap->first + t) - tap->center) / tap->reach;
}

void picture_blit(struct picture *picture, struct box box, const uint8_t *pixels, int64_t width,
                  int64_t height)
{
    struct box seen = clip(picture, box);
    for (int64_t y = seen.y; y < seen.y + seen.height; y++) {
        struct tap rows = tap_at(y - box.y, box.height, height);
        for (int64_t x = seen.x; x < seen.x + seen.width; x++) {
            struct tap columns = tap_at(x - box.x, box.width, width);
            double sums[3] = {0}, total = 0;
            for (int64_t r = 0; r < rows.count; r++)
                for (int64_t c = 0; c < columns.count; c++) {
                    double weight = tap_weight(&rows, r) * tap_weight(&columns, c);
                    const uint8_t *p = pixels + 3 * ((rows.first + r) * width + columns.first + c);
                    for (int channel = 0; channel < 3; channel++)
                        sums[channel] += weight * p[channel];
                    total += weight;
                }
            for (int channel = 0; channel < 3; channel++)
                pixel_at(picture, x, y)[channel] = to_byte(sums[channel] / total);
        }
    }
}

/* The map's value at a pixel of the box, straight between the centres of the cells. */
static double map_value(const float *values, const struct tap *rows, const struct tap *columns,
                        int64_t stride)
{
    double sum = 0, total = 0;
    for (int64_t r = 0; r < rows->count; r++)
        for (int64_t c = 0; c < columns->count; c++) {
            double weight = tap_weight(rows, r) * tap_weight(columns, c);
            sum += weight * values[(rows->first + r) * stride + columns->first + c];
            total += weight;
        }
    return sum / total;
}

void picture_heat(struct picture *picture, struct box box, const float *values, int64_t rows,
                  int64_t columns, float low, float high)
{
    double range = high > low ? high - low : 1;
    struct box seen = clip(picture, box);
    for (int64_t y = seen.y; y < seen.y + seen.height; y++) {
        struct tap row = tap_at(y - box.y, box.height, rows);
        for (int64_t x = seen.x; x < seen.x + seen.width; x++) {
            struct tap column = tap_at(x - box.x, box.width, columns);
            double heat = clamp((map_value(values, &row, &column, columns) - low) / range, 0, 1);
            uint8_t *pixel = pixel_at(picture, x, y);
            uint8_t grey = to_byte(0.8 * (0.3 * pixel[0] + 0.6 * pixel[1] + 0.1 * pixel[2]));
            blend(pixel, (struct colour){grey, grey, grey}, 0.5);
            blend(pixel, colour_heat(heat), 0.05 + 0.65 * heat);
        }
    }
}

int picture_encode(const struct picture *picture, uint8_t **ret_data, size_t *ret_size,
                   struct bl_error *err)
{
    png_image png = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)picture->width,
                     .height = (png_uint_32)picture->height,
                     .format = PNG_FORMAT_RGB};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
    bl_autofree uint8_t *data = malloc(size);
    if (!data)
        return bl_fail(err, BL_ENOMEM, "no memory for a PNG file of %zu bytes", size);
    if (!png_image_write_to_memory(&png, data, &size, 0, picture->pixels, 0, NULL))
        return bl_fail(err, BL_ENOMEM, "cannot make a PNG file: %s", png.message);
    *ret_data = bl_take(&data);
    *ret_size = size;
    return 0;
}

int picture_write(const struct picture *picture, const char *path, struct bl_error *err)
{
    bl_autofree uint8_t *data = NULL;
    size_t size;
    BL_TRY(picture_encode(picture, &data, &size, err));
    return bl_file_write(path, data, size, err);
}
