/* common/picture/chart.h - a line chart on a canvas. */
#pragma once

#include "common/picture/picture.h"

struct chart_series {
    const char *name;    /* for the legend; NULL = not named there */
    const double *x, *y; /* (count) each, borrowed; one that is not finite leaves a gap */
    size_t count;
    const struct colour *colour; /* NULL = colour_series(its place) */
};
struct chart {
    const char *title, *x_label, *y_label; /* NULL = none */
    const struct chart_series *series;
    size_t series_count;
};

/* Draws into the box of the picture: title, axes with round numbers that cover all values, grid,
 * lines, legend in the corner where fewest points are. Without a finite point the axes are 0 to 1. */
void chart_draw(struct picture *picture, struct box box, const struct chart *chart);
