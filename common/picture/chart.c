/* common/picture/chart.c - a line chart: title, axes with round numbers, grid, lines, legend. */
#include "common/picture/chart.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "common/size.h"

static const double small = 1.4, large = 2;
enum { MARGIN = 10, SMALL_HEIGHT = 10, LABEL_HEIGHT = 18, TITLE_HEIGHT = 28, TICKS = 6 };

/* Ticks at low, low + step, … high: all multiples of step, which is 1, 2 or 5 times a power of ten
 * (after P. Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990). */
struct axis {
    double low, high, step;
};

static struct axis axis_for(double low, double high)
{
    if (!(low <= high)) { /* no point */
        low = 0;
        high = 1;
    }
    double largest = fmax(fabs(low), fabs(high));
    if (high - low <= fmax(1e-9 * largest, 1e-200)) {
        double room = largest > 1e-200 ? 0.1 * largest : 1;
        low -= room;
        high += room;
    }
    double rough = (high - low) / TICKS, power = pow(10, floor(log10(rough))),
           share = rough / power;
    double step = power * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 5 ? 5 : 10);
    return (struct axis){floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step, step};
}

/* Infinite, not a number, or too large to compute with: no point. */
static bool is_point(const struct chart_series *series, size_t i)
{
    return fabs(series->x[i]) < 1e300 && fabs(series->y[i]) < 1e300;
}

static int axis_ticks(const struct axis *axis)
{
    return (int)lround((axis->high - axis->low) / axis->step) + 1;
}

/* With as many decimals as the step has. */
static void tick_text(const struct axis *axis, int tick, char *ret, size_t size)
{
    double value = axis->low + tick * axis->step;
    if (fabs(value) < axis->step * 1e-6)
        value = 0;
    if (fmax(fabs(axis->low), fabs(axis->high)) >= 1e6 || axis->step < 1e-5) {
        snprintf(ret, size, "%.3g", value);
        return;
    }
    int decimals = (int)fmax(0, -floor(log10(axis->step) + 1e-9));
    snprintf(ret, size, "%.*f", decimals, value);
}

struct plot {
    struct picture *picture;
    const struct chart *chart;
    struct box area; /* within the axes */
    struct axis x, y;
};

static double x_at(const struct plot *plot, double x)
{
    return (double)plot->area.x +
           (x - plot->x.low) / (plot->x.high - plot->x.low) * (double)plot->area.width;
}

static double y_at(const struct plot *plot, double y)
{
    return (double)(plot->area.y + plot->area.height) -
           (y - plot->y.low) / (plot->y.high - plot->y.low) * (double)plot->area.height;
}

static void find_axes(const struct chart *chart, struct axis *ret_x, struct axis *ret_y)
{
    double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
    for (size_t s = 0; s < chart->series_count; s++) {
        const struct chart_series *series = &chart->series[s];
        for (size_t i = 0; i < series->count; i++) {
            if (!is_point(series, i))
                continue;
            x_low = fmin(x_low, series->x[i]);
            x_high = fmax(x_high, series->x[i]);
            y_low = fmin(y_low, series->y[i]);
            y_high = fmax(y_high, series->y[i]);
        }
    }
    *ret_x = axis_for(x_low, x_high);
    *ret_y = axis_for(y_low, y_high);
}

static int64_t widest_tick(const struct axis *axis)
{
    int64_t widest = 0;
    for (int t = 0; t < axis_ticks(axis); t++) {
        char text[32];
        tick_text(axis, t, text, sizeof text);
        widest = bl_max(widest, picture_text(NULL, 0, 0, small, COLOUR_GREY, text));
    }
    return widest;
}

static void draw_grid(const struct plot *plot)
{
    const struct box *area = &plot->area;
    char text[32];
    for (int t = 0; t < axis_ticks(&plot->y); t++) {
        int64_t y = (int64_t)lround(y_at(plot, plot->y.low + t * plot->y.step));
        picture_fill(plot->picture, (struct box){area->x, y, area->width, 1}, COLOUR_FAINT);
        tick_text(&plot->y, t, text, sizeof text);
        int64_t width = picture_text(NULL, 0, 0, small, COLOUR_GREY, text);
        picture_text(plot->picture, area->x - 6 - width, y - SMALL_HEIGHT / 2, small, COLOUR_GREY,
                     text);
    }
    for (int t = 0; t < axis_ticks(&plot->x); t++) {
        int64_t x = (int64_t)lround(x_at(plot, plot->x.low + t * plot->x.step));
        picture_fill(plot->picture, (struct box){x, area->y, 1, area->height}, COLOUR_FAINT);
        tick_text(&plot->x, t, text, sizeof text);
        int64_t width = picture_text(NULL, 0, 0, small, COLOUR_GREY, text);
        picture_text(plot->picture, x - width / 2, area->y + area->height + 7, small, COLOUR_GREY,
                     text);
    }
    picture_fill(plot->picture, (struct box){area->x, area->y + area->height, area->width + 1, 1},
                 COLOUR_GREY);
    picture_fill(plot->picture, (struct box){area->x, area->y, 1, area->height + 1}, COLOUR_GREY);
}

static struct colour colour_of(const struct chart *chart, size_t place)
{
    return chart->series[place].colour ? *chart->series[place].colour : colour_series(place);
}

static void draw_lines(const struct plot *plot)
{
    for (size_t s = 0; s < plot->chart->series_count; s++) {
        const struct chart_series *series = &plot->chart->series[s];
        bool drawn = false;
        double last_x = 0, last_y = 0;
        for (size_t i = 0; i < series->count; i++) {
            if (!is_point(series, i)) {
                drawn = false;
                continue;
            }
            double x = x_at(plot, series->x[i]), y = y_at(plot, series->y[i]);
            picture_line(plot->picture, drawn ? last_x : x, drawn ? last_y : y, x, y, 1.8,
                         colour_of(plot->chart, s));
            last_x = x;
            last_y = y;
            drawn = true;
        }
    }
}

static size_t points_within(const struct plot *plot, const struct box *box)
{
    size_t found = 0;
    for (size_t s = 0; s < plot->chart->series_count; s++)
        for (size_t i = 0; i < plot->chart->series[s].count; i++) {
            double x = x_at(plot, plot->chart->series[s].x[i]) - (double)box->x;
            double y = y_at(plot, plot->chart->series[s].y[i]) - (double)box->y;
            found += x >= 0 && x < (double)box->width && y >= 0 && y < (double)box->height;
        }
    return found;
}

static void draw_legend(const struct plot *plot)
{
    enum { SWATCH = 16, GAP = 6 };
    const struct chart *chart = plot->chart;
    int64_t width = 0, lines = 0;
    for (size_t s = 0; s < chart->series_count; s++) {
        if (!chart->series[s].name)
            continue;
        width = bl_max(width, picture_text(NULL, 0, 0, small, COLOUR_INK, chart->series[s].name));
        lines++;
    }
    if (lines == 0)
        return;
    struct box best = {0, 0, width + SWATCH + 3 * GAP, lines * LABEL_HEIGHT + GAP};
    size_t fewest = (size_t)-1;
    for (int corner = 0; corner < 4; corner++) { /* right before left, top before bottom */
        struct box box = best;
        box.x = corner % 2 == 0 ? plot->area.x + plot->area.width - box.width - MARGIN
                                : plot->area.x + MARGIN;
        box.y = corner < 2 ? plot->area.y + MARGIN
                           : plot->area.y + plot->area.height - box.height - MARGIN;
        size_t hidden = points_within(plot, &box);
        if (hidden < fewest) {
            fewest = hidden;
            best = box;
        }
    }
    picture_fill(plot->picture, best, COLOUR_WHITE);
    picture_frame(plot->picture, best, COLOUR_FAINT);
    int64_t y = best.y + GAP;
    for (size_t s = 0; s < chart->series_count; s++) {
        if (!chart->series[s].name)
            continue;
        double middle = (double)y + SMALL_HEIGHT / 2;
        picture_line(plot->picture, (double)(best.x + GAP), middle, (double)(best.x + GAP + SWATCH),
                     middle, 2.5, colour_of(chart, s));
        picture_text(plot->picture, best.x + 2 * GAP + SWATCH, y, small, COLOUR_INK,
                     chart->series[s].name);
        y += LABEL_HEIGHT;
    }
}

void chart_draw(struct picture *picture, struct box box, const struct chart *chart)
{
    struct plot plot = {.picture = picture, .chart = chart};
    find_axes(chart, &plot.x, &plot.y);
    int64_t top = box.y + MARGIN, left = box.x + MARGIN + widest_tick(&plot.y) + 6;
    int64_t bottom = box.y + box.height - MARGIN - LABEL_HEIGHT;
    if (chart->title) {
        picture_text(picture, left, top, large, COLOUR_INK, chart->title);
        top += TITLE_HEIGHT;
    }
    if (chart->y_label) {
        picture_text(picture, left, top, small, COLOUR_GREY, chart->y_label);
        top += LABEL_HEIGHT;
    }
    if (chart->x_label) {
        int64_t width = picture_text(NULL, 0, 0, small, COLOUR_GREY, chart->x_label);
        picture_text(picture, box.x + box.width - 2 * MARGIN - width, bottom, small, COLOUR_GREY,
                     chart->x_label);
        bottom -= LABEL_HEIGHT + 2;
    }
    plot.area =
        (struct box){left, top + 2, box.x + box.width - 2 * MARGIN - left, bottom - top - 2};
    if (plot.area.width < 1 || plot.area.height < 1)
        return;
    draw_grid(&plot);
    draw_lines(&plot);
    draw_legend(&plot);
}
