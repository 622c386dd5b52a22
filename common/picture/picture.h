/* common/picture/picture.h - a canvas for the pictures that people are shown: sheets of images with captions,
 * attention maps, curves (common/picture/chart.h). Everything drawn is clipped to the canvas; x to the right,
 * y down, in pixels. Not for training data: colours are blended as they look best. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct colour {
    uint8_t r, g, b;
};
#define COLOUR_WHITE ((struct colour){255, 255, 255})
#define COLOUR_INK ((struct colour){32, 34, 40})
#define COLOUR_GREY ((struct colour){122, 126, 134})
#define COLOUR_FAINT ((struct colour){226, 228, 232})
#define COLOUR_GOOD ((struct colour){0, 134, 92})
#define COLOUR_BAD ((struct colour){200, 60, 30})
/* Colour `index` (any, they repeat) of eight that also the colour-blind tell apart. */
struct colour colour_series(size_t index);
/* t in 0 … 1 (others are clamped) from dark violet by red to pale yellow, evenly in lightness. */
struct colour colour_heat(double t);

struct picture {
    int64_t width, height;
    uint8_t *pixels; /* (height, width, 3) u8 RGB, owned */
};
struct box {
    int64_t x, y, width, height;
};

/* -BL_ELIMIT beyond BL_IMAGE_SIDE_MAX or below 1 a side. */
int picture_init(struct picture *picture, int64_t width, int64_t height, struct colour background,
                 struct bl_error *err);
void picture_release(struct picture *picture);
#define bl_autopicture __attribute__((cleanup(picture_release)))

void picture_fill(struct picture *picture, struct box box, struct colour colour);
/* A border of one pixel just inside the box. */
void picture_frame(struct picture *picture, struct box box, struct colour colour);
/* A smooth line with round ends; whole coordinates are the corners of pixels. */
void picture_line(struct picture *picture, double x0, double y0, double x1, double y1,
                  double thickness, struct colour colour);

/* An image (height, width, 3) u8 RGB stretched over the box, smoothly both ways. */
void picture_blit(struct picture *picture, struct box box, const uint8_t *pixels, int64_t width,
                  int64_t height);
/* A map of values (rows, columns) laid over what the box shows: where a value is `high` or more, the
 * heat colour covers most of it, at `low` and less the picture stays, greyer and darker. */
void picture_heat(struct picture *picture, struct box box, const float *values, int64_t rows,
                  int64_t columns, float low, float high);

/* Text in a font of 7 dots above the line and 2 below it; a dot is `scale` pixels (1: sharp
 * dots; others, 1.4 and up: smooth strokes), y the top of the capitals. Returns the width, or the height of all lines. What is not printable ASCII shows as
 * a box. `picture` may be NULL: measures only. */
enum { PICTURE_LINE_DOTS = 12 }; /* from line to line */
int64_t picture_text(struct picture *picture, int64_t x, int64_t y, double scale,
                     struct colour colour, const char *text);
/* The same in lines of at most `width` pixels, broken at spaces and newlines, or inside a word that
 * is too long. */
int64_t picture_text_wrapped(struct picture *picture, int64_t x, int64_t y, int64_t width,
                             double scale, struct colour colour, const char *text);

/* The picture as a PNG file in memory; *ret_data is the caller's (free). */
int picture_encode(const struct picture *picture, uint8_t **ret_data, size_t *ret_size,
                   struct bl_error *err);
/* The same to a file, whole or absent. */
int picture_write(const struct picture *picture, const char *path, struct bl_error *err);
