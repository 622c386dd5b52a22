/* common/picture/text.c - the font, and text set in it. */
#include "common/picture/picture.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Printable ASCII, twelve characters a row of cells, 5 x 9 dots each; the seventh row of dots stands
 * on the line. The last is shown for whatever is missing. A character is as wide as its dots. */
enum { CELL_WIDTH = 5, CELL_HEIGHT = 9, CELLS_A_ROW = 12, SPACE_DOTS = 3, MISSING = 127 };
static const char *const sheet[8][9] = {
    {
        "..... #.... #.#.. ..... ..#.. ##..# .##.. #.... .#... #.... ..... .....",
        "..... #.... #.#.. .#.#. .#### ##..# #..#. #.... #.... .#... ..#.. ..#..",
        "..... #.... ..... ##### #.#.. ...#. #..#. ..... #.... .#... #.#.# ..#..",
        "..... #.... ..... .#.#. .###. ..#.. .##.. ..... #.... .#... .###. #####",
        "..... #.... ..... ##### ..#.# .#... #.#.# ..... #.... .#... #.#.# ..#..",
        "..... ..... ..... .#.#. ####. #..## #..#. ..... #.... .#... ..#.. ..#..",
        "..... #.... ..... ..... ..#.. #..## .##.# ..... .#... #.... ..... .....",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
    },
    {
        "..... ..... ..... ....# .##.. .#... .###. .###. ...#. ##### ..##. #####",
        "..... ..... ..... ...#. #..#. ##... #...# #...# ..##. #.... .#... ....#",
        "..... ..... ..... ...#. #..#. .#... ....# ....# .#.#. ####. #.... ...#.",
        "..... ####. ..... ..#.. #..#. .#... ...#. ..##. #..#. ....# ####. ...#.",
        "..... ..... ..... .#... #..#. .#... ..#.. ....# ##### ....# #...# ..#..",
        ".#... ..... ..... .#... #..#. .#... .#... #...# ...#. #...# #...# ..#..",
        ".#... ..... #.... #.... .##.. ###.. ##### .###. ...#. .###. .###. ..#..",
        "#.... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
    },
    {
        ".###. .###. ..... ..... ..... ..... ..... .###. .###. ..#.. ####. .###.",
        "#...# #...# ..... ..... ...#. ..... #.... #...# #...# .#.#. #...# #...#",
        "#...# #...# #.... .#... ..#.. ####. .#... ....# #.### .#.#. #...# #....",
        ".###. .#### ..... ..... .#... ..... ..#.. ...#. #.#.# #...# ####. #....",
        "#...# ....# ..... ..... ..#.. ####. .#... ..#.. #.### ##### #...# #....",
        "#...# ...#. #.... .#... ...#. ..... #.... ..... #.... #...# #...# #...#",
        ".###. .##.. ..... .#... ..... ..... ..... ..#.. .###. #...# ####. .###.",
        "..... ..... ..... #.... ..... ..... ..... ..... ..... ..... ..... .....",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
    },
    {
        "####. ##### ##### .###. #...# ###.. ...#. #...# #.... #...# #...# .###.",
        "#...# #.... #.... #...# #...# .#... ...#. #..#. #.... ##.## ##..# #...#",
        "#...# #.... #.... #.... #...# .#... ...#. #.#.. #.... #.#.# ##..# #...#",
        "#...# ####. ####. #..## ##### .#... ...#. ##... #.... #.#.# #.#.# #...#",
        "#...# #.... #.... #...# #...# .#... ...#. #.#.. #.... #...# #..## #...#",
        "#...# #.... #.... #...# #...# .#... #..#. #..#. #.... #...# #..## #...#",
        "####. ##### #.... .###. #...# ###.. .##.. #...# ##### #...# #...# .###.",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
    },
    {
        "####. .###. ####. .#### ##### #...# #...# #...# #...# #...# ##### ##...",
        "#...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....# #....",
        "#...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#. #....",
        "####. #...# ####. .###. ..#.. #...# .#.#. #.#.# ..#.. ..#.. ..#.. #....",
        "#.... #.#.# #.#.. ....# ..#.. #...# .#.#. #.#.# .#.#. ..#.. .#... #....",
        "#.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #.... #....",
        "#.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. ##### ##...",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
    },
    {
        "#.... ##... ..#.. ..... #.... ..... #.... ..... ....# ..... ..##. .....",
        ".#... .#... .#.#. ..... .#... ..... #.... ..... ....# ..... .#... .....",
        ".#... .#... #...# ..... ..... .###. ####. .###. .#### .###. ####. .####",
        "..#.. .#... ..... ..... ..... ....# #...# #.... #...# #...# .#... #...#",
        "...#. .#... ..... ..... ..... .#### #...# #.... #...# ##### .#... #...#",
        "...#. .#... ..... ..... ..... #...# #...# #.... #...# #.... .#... #...#",
        "....# ##... ..... ..... ..... .#### ####. .###. .#### .#### .#... .####",
        "..... ..... ..... ##### ..... ..... ..... ..... ..... ..... ..... ....#",
        "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .###.",
    },
    {
        "#.... #.... ..#.. #.... #.... ..... ..... ..... ..... ..... ..... .....",
        "#.... ..... ..... #.... #.... ..... ..... ..... ..... ..... ..... .....",
        "####. #.... ..#.. #..#. #.... ##.#. ####. .###. ####. .#### #.##. .###.",
        "#...# #.... ..#.. #.#.. #.... #.#.# #...# #...# #...# #...# ##... #....",
        "#...# #.... ..#.. ##... #.... #.#.# #...# #...# #...# #...# #.... .##..",
        "#...# #.... ..#.. #.#.. #.... #.#.# #...# #...# #...# #...# #.... ...#.",
        "#...# #.... ..#.. #..#. .#... #.#.# #...# .###. ####. .#### #.... ###..",
        "..... ..... ..#.. ..... ..... ..... ..... ..... #.... ....# ..... .....",
        "..... ..... ##... ..... ..... ..... ..... ..... #.... ....# ..... .....",
    },
    {
        ".#... ..... ..... ..... ..... ..... ..... ..#.. #.... #.... ..... #####",
        ".#... ..... ..... ..... ..... ..... ..... .#... #.... .#... ..... #...#",
        "####. #...# #...# #...# #...# #...# ##### .#... #.... .#... .#..# #...#",
        ".#... #...# #...# #.#.# .#.#. #...# ...#. #.... #.... ..#.. #.#.# #...#",
        ".#... #...# .#.#. #.#.# ..#.. #...# ..#.. .#... #.... .#... #..#. #...#",
        ".#... #...# .#.#. #.#.# .#.#. #...# .#... .#... #.... .#... ..... #...#",
        "..##. .#### ..#.. .#.#. #...# .#### ##### ..#.. #.... #.... ..... #####",
        "..... ..... ..... ..... ..... ....# ..... ..... ..... ..... ..... .....",
        "..... ..... ..... ..... ..... .###. ..... ..... ..... ..... ..... .....",
    },
};

static bool dot(unsigned char c, int x, int y)
{
    if (x < 0 || y < 0 || x >= CELL_WIDTH || y >= CELL_HEIGHT)
        return false;
    int cell = c - ' ';
    return sheet[cell / CELLS_A_ROW][y][cell % CELLS_A_ROW * (CELL_WIDTH + 1) + x] == '#';
}

static int glyph_width(unsigned char c)
{
    int width = 0;
    for (int y = 0; y < CELL_HEIGHT; y++)
        for (int x = width; x < CELL_WIDTH; x++)
            if (dot(c, x, y))
                width = x + 1;
    return width > 0 ? width : SPACE_DOTS;
}

/* The character that *text starts with, and moves behind it; a UTF-8 sequence counts as one. */
static unsigned char next_glyph(const char **text)
{
    unsigned char c = (unsigned char)*(*text)++;
    if (c >= ' ' && c < MISSING)
        return c;
    if (c >= 0xc0)
        while (((unsigned char)**text & 0xc0) == 0x80)
            (*text)++;
    return MISSING;
}

/* Dots are joined to their neighbours by strokes, which gives smooth letters at any size;
 * diagonally only where no other way leads round the corner. */
static void draw_strokes(struct picture *picture, double x, double y, double scale,
                         struct colour colour, unsigned char c)
{
    static const int steps[][2] = {{1, 0}, {0, 1}, {1, 1}, {-1, 1}};
    double thickness = scale;
    for (int row = 0; row < CELL_HEIGHT; row++)
        for (int column = 0; column < CELL_WIDTH; column++) {
            if (!dot(c, column, row))
                continue;
            double x0 = x + (column + 0.5) * scale, y0 = y + (row + 0.5) * scale;
            bool joined = false;
            for (int s = 0; s < 4; s++) {
                int dx = steps[s][0], dy = steps[s][1];
                bool diagonal = dx != 0 && dy != 0;
                if (!dot(c, column + dx, row + dy) ||
                    (diagonal && (dot(c, column + dx, row) || dot(c, column, row + dy))))
                    continue;
                picture_line(picture, x0, y0, x0 + dx * scale, y0 + dy * scale, thickness, colour);
                joined = true;
            }
            if (!joined)
                picture_line(picture, x0, y0, x0, y0, thickness, colour);
        }
}

static void draw_glyph(struct picture *picture, double x, double y, double scale,
                       struct colour colour, unsigned char c)
{
    if (scale != 1) {
        draw_strokes(picture, x, y, scale, colour, c);
        return;
    }
    for (int row = 0; row < CELL_HEIGHT; row++)
        for (int column = 0; column < CELL_WIDTH; column++)
            if (dot(c, column, row))
                picture_fill(picture, (struct box){(int64_t)x + column, (int64_t)y + row, 1, 1},
                             colour);
}

/* text[0 .. size) on one line. */
static int64_t draw_line(struct picture *picture, int64_t x, int64_t y, double scale,
                         struct colour colour, const char *text, size_t size)
{
    double width = 0;
    for (const char *end = text + size; text < end;) {
        unsigned char c = next_glyph(&text);
        if (picture)
            draw_glyph(picture, (double)x + width, (double)y, scale, colour, c);
        width += (glyph_width(c) + 1) * scale;
    }
    return width > 0 ? (int64_t)ceil(width - scale) : 0;
}

int64_t picture_text(struct picture *picture, int64_t x, int64_t y, double scale,
                     struct colour colour, const char *text)
{
    return draw_line(picture, x, y, scale, colour, text, strlen(text));
}

static int64_t line_width(double scale, const char *text, size_t size)
{
    return draw_line(NULL, 0, 0, scale, COLOUR_INK, text, size);
}

/* How many bytes of text fit on a line: up to a newline, else the last space before the edge, else as
 * many characters as fit, but at least one. */
static size_t fitting(const char *text, double scale, int64_t width)
{
    size_t best = 0, first = 0;
    for (const char *p = text; *p && *p != '\n';) {
        if (*p == ' ' && line_width(scale, text, (size_t)(p - text)) <= width)
            best = (size_t)(p - text);
        next_glyph(&p);
        size_t size = (size_t)(p - text);
        if (line_width(scale, text, size) > width)
            return best > 0 ? best : first > 0 ? first : size;
        first = size;
    }
    return first;
}

int64_t picture_text_wrapped(struct picture *picture, int64_t x, int64_t y, int64_t width,
                             double scale, struct colour colour, const char *text)
{
    double height = 0;
    while (*text) {
        size_t size = fitting(text, scale, width);
        draw_line(picture, x, y + (int64_t)lround(height), scale, colour, text, size);
        height += PICTURE_LINE_DOTS * scale;
        text += size;
        if (*text == ' ' || *text == '\n')
            text++;
    }
    return (int64_t)ceil(height);
}
