/* What follows a convolution on a CPU: batch normalization, 2 x 2 max-pooling and ReLU, each where there is one.

One after the other PyTorch's layers read and write a map nine times, and pixel by pixel in vectors of channels. Here
forward reads it once for each sum and once more, backward twice. Nothing but the map is kept for backward: what was
largest is found again.

Maps are of N images, C channels, H x W pixels, in one of three forms. A window is what gives one pixel: four pixels, or
without a pool one. Windows come in rows of `length` numbers that lie side by side, and so do their pixels.

    PIXELS  channels_last, no pool                   a row: a row of a map, W x C
    WINDOWS channels_last, with a pool               a row: the channels of one window, C
    BLOCKS  (N, 4, C, H, W): a pixel's place in its window comes first; H x W are windows. A row: an image, C x H x W

Gradients go to the first of equal pixels, in the order of PyTorch. A NaN is the largest, as it is there. Statistics are
sums of REAL over ROWS rows (in blocks, images), gradients' over FLUSH images; those are added up as double. */

#include <math.h>
#include <stdint.h>

#include "native.h"

#ifdef BFLOAT16 /* Maps are of it, all else of REAL. */
typedef uint16_t number;
static inline REAL get(number n)
{
    const uint32_t bits = (uint32_t) n << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
/* To the nearest, of two equally near to the even one. */
static inline number put(REAL v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return v != v ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#else
typedef REAL number;
#define get(n) (n)
#define put(v) (v)
#endif
#define MAP const number *restrict
#define NEW_MAP number *restrict
#define ROWS 64
#define FLUSH 16

enum { PIXELS, WINDOWS, BLOCKS };
typedef struct { size form, num, channels, height, width; } Maps;

/* Rows of windows, and where their pixels lie. `inner` numbers of one channel lie side by side, and all channels
   again and again. */
typedef struct { size num, rows, columns, length, inner, pixels, image, row, column, pixel[4]; } Layout;

static Layout layout_of(const Maps *m)
{
    const size line = m->width * m->channels, plane = m->height * m->width;
    if (m->form == PIXELS)
        return (Layout) {m->num, m->height, 1, line, 1, 1, m->height * line, line, 0, {0}};
    if (m->form == WINDOWS)
        return (Layout) {m->num, m->height / 2, m->width / 2, m->channels, 1, 4, m->height * line, 2 * line,
                         2 * m->channels, {0, m->channels, line, line + m->channels}};
    const size image = m->channels * plane;
    return (Layout) {m->num, 1, 1, image, plane, 4, 4 * image, 0, 0, {0, image, 2 * image, 3 * image}};
}

/* A value per channel, repeated to the length of a row. */
static void spread(size length, size inner, size channels, IN value, OUT row)
{
    for (size k = 0; k < length;)
        for (size c = 0; c < channels; c++)
            for (size i = 0; i < inner; i++) row[k++] = value[c];
}

/* Add a row to a sum per channel, and clear it. */
static void flush(size length, size inner, size channels, REAL *row, double *total)
{
    for (size k = 0; k < length;)
        for (size c = 0; c < channels; c++)
            for (size i = 0; i < inner; i++, k++) total[c] += row[k], row[k] = 0;
}

static inline REAL larger(REAL a, REAL b)
{
    REAL m = b > a ? b : a;
    return b != b ? b : m;
}

static void add(size length, MAP x, OUT part)
{
    for (size k = 0; k < length; k++) part[k] += get(x[k]);
}

static void add_squares(size length, MAP x, IN centre, OUT part)
{
    for (size k = 0; k < length; k++) part[k] += (get(x[k]) - centre[k]) * (get(x[k]) - centre[k]);
}

static void pool_row(size length, MAP x0, MAP x1, MAP x2, MAP x3, IN scale, IN offset, REAL least, NEW_MAP y)
{
    for (size k = 0; k < length; k++) {
        REAL s = scale[k], o = offset[k];
        REAL top = larger(get(x0[k]) * s + o, get(x1[k]) * s + o);
        REAL best = larger(top, larger(get(x2[k]) * s + o, get(x3[k]) * s + o));
        y[k] = put(best <= least ? least : best);
    }
}

static void scale_row(size length, MAP x, IN scale, IN offset, REAL least, NEW_MAP y)
{
    for (size k = 0; k < length; k++) {
        REAL v = get(x[k]) * scale[k] + offset[k];
        y[k] = put(v <= least ? least : v);
    }
}

/* Sums of the gradient, and of it times the centred pixel that it goes to. */
static void add_pooled(size length, MAP x0, MAP x1, MAP x2, MAP x3, IN scale, IN offset, IN mean, MAP g, REAL least,
                       OUT part, OUT part_x)
{
    for (size k = 0; k < length; k++) {
        REAL s = scale[k], o = offset[k], given = get(g[k]);
        REAL a0 = get(x0[k]), a1 = get(x1[k]), a2 = get(x2[k]), a3 = get(x3[k]);
        REAL v0 = a0 * s + o, v1 = a1 * s + o, v2 = a2 * s + o, v3 = a3 * s + o;
        REAL top = larger(v0, v1), bottom = larger(v2, v3);
        REAL above = v0 >= v1 ? a0 : a1, below = v2 >= v3 ? a2 : a3, x = top >= bottom ? above : below;
        REAL passed = larger(top, bottom) <= least ? 0 : given;
        part[k] += passed;
        part_x[k] += passed * (x - mean[k]);
    }
}

static void add_scaled(size length, MAP x, IN scale, IN offset, IN mean, MAP g, REAL least, OUT part, OUT part_x)
{
    for (size k = 0; k < length; k++) {
        REAL a = get(x[k]), given = get(g[k]), passed = a * scale[k] + offset[k] <= least ? 0 : given;
        part[k] += passed;
        part_x[k] += passed * (a - mean[k]);
    }
}

/* The gradient of a pixel is level + slope * x, which normalization gives to all, and for the largest scale * g. */
INLINE void unpool_row(size length, MAP x0, MAP x1, MAP x2, MAP x3, IN scale, IN offset, IN level, IN slope,
                       MAP g, REAL least, const int norm, NEW_MAP d0, NEW_MAP d1, NEW_MAP d2, NEW_MAP d3)
{
    for (size k = 0; k < length; k++) {
        REAL s = scale[k], o = offset[k], l = level[k], m = slope[k], given = get(g[k]) * s;
        REAL a0 = get(x0[k]), a1 = get(x1[k]), a2 = get(x2[k]), a3 = get(x3[k]);
        REAL v0 = a0 * s + o, v1 = a1 * s + o, v2 = a2 * s + o, v3 = a3 * s + o;
        REAL top = larger(v0, v1), bottom = larger(v2, v3);
        REAL passed = larger(top, bottom) <= least ? 0 : given;
        REAL above = top >= bottom ? passed : 0, below = top >= bottom ? 0 : passed;
        d0[k] = put((norm ? l + m * a0 : 0) + (v0 >= v1 ? above : 0));
        d1[k] = put((norm ? l + m * a1 : 0) + (v0 >= v1 ? 0 : above));
        d2[k] = put((norm ? l + m * a2 : 0) + (v2 >= v3 ? below : 0));
        d3[k] = put((norm ? l + m * a3 : 0) + (v2 >= v3 ? 0 : below));
    }
}

static void unscale_row(size length, MAP x, IN scale, IN offset, IN level, IN slope, MAP g, REAL least, NEW_MAP d)
{
    for (size k = 0; k < length; k++) {
        REAL a = get(x[k]), given = get(g[k]) * scale[k], passed = a * scale[k] + offset[k] <= least ? 0 : given;
        d[k] = put(level[k] + slope[k] * a + passed);
    }
}

/* Of no window: the last row and column of an odd map, whose pixels get what normalization gives to all. */
static void leave_out(const Maps *m, MAP x, IN level, IN slope, const int norm, NEW_MAP d)
{
    for (size n = 0; n < m->num; n++)
        for (size h = 0; h < m->height; h++)
            for (size w = h < m->height / 2 * 2 ? m->width / 2 * 2 : 0; w < m->width; w++) {
                const size at = ((n * m->height + h) * m->width + w) * m->channels;
                for (size c = 0; c < m->channels; c++) d[at + c] = put(norm ? level[c] + slope[c] * get(x[at + c]) : 0);
            }
}

static void find_statistics(const Maps *m, const Layout *l, MAP x, OUT mean, OUT var, OUT part, OUT centre)
{
    const size num = m->form == BLOCKS ? m->num : m->num * m->height;
    const size length = m->form == BLOCKS ? l->image : m->width * m->channels;
    const double count = (double) num * length / m->channels;
    double total[m->channels];
    for (int squares = 0; squares < 2; squares++) {
        for (size c = 0; c < m->channels; c++) total[c] = 0;
        for (size k = 0; k < length; k++) part[k] = 0;
        if (squares) spread(length, l->inner, m->channels, mean, centre);
        for (size n = 0; n < num; n++) {
            if (squares) add_squares(length, x + n * length, centre, part);
            else add(length, x + n * length, part);
            if (n % ROWS == ROWS - 1 || n == num - 1) flush(length, l->inner, m->channels, part, total);
        }
        for (size c = 0; c < m->channels; c++) (squares ? var : mean)[c] = total[c] / count;
    }
}

/* y = x * scale + offset, as rows of all channels. */
static void find_scale(const Maps *m, const Layout *l, IN weight, IN bias, IN mean, IN var, double eps, OUT scale,
                       OUT offset)
{
    REAL value[2][m->channels];
    for (size c = 0; c < m->channels; c++) {
        value[0][c] = weight ? weight[c] / sqrt(var[c] + eps) : 1;
        value[1][c] = weight ? bias[c] - mean[c] * value[0][c] : 0;
    }
    spread(l->length, l->inner, m->channels, value[0], scale);
    spread(l->length, l->inner, m->channels, value[1], offset);
}

#define FOR_ROWS(l) \
    for (size n = 0; n < (l).num; n++) \
        for (size r = 0; r < (l).rows; r++) \
            for (size c = 0, at = n * (l).image + r * (l).row, small = (n * (l).rows + r) * (l).columns * (l).length; \
                 c < (l).columns; c++, at += (l).column, small += (l).length)
#define FOUR(x, l) x + at + (l).pixel[0], x + at + (l).pixel[1], x + at + (l).pixel[2], x + at + (l).pixel[3]

/* Without a norm `weight` is NULL. `mean` and `var`, (C,): found here, or given, in evaluation. `least`: 0 with a ReLU,
   else NaN, than which nothing is less. `work`: 2 rows of an image's line or, in blocks, of an image. */
void norm_pool_relu_forward(const Maps *maps, MAP x, const REAL *weight, const REAL *bias, double eps, REAL least,
                            size find, REAL *mean, REAL *var, NEW_MAP y, REAL *work, size room)
{
    const Layout l = layout_of(maps);
    REAL *scale = work, *offset = work + room;
    if (find) find_statistics(maps, &l, x, mean, var, work, work + room);
    find_scale(maps, &l, weight, bias, mean, var, eps, scale, offset);
    if (l.pixels == 4) FOR_ROWS(l) pool_row(l.length, FOUR(x, l), scale, offset, least, y + small);
    else FOR_ROWS(l) scale_row(l.length, x + at, scale, offset, least, y + small);
}

/* Gradients of x, weight and bias, of the training's forward. `work`: 7 rows. */
void norm_pool_relu_backward(const Maps *maps, MAP g, MAP x, const REAL *weight, const REAL *bias, double eps,
                             REAL least, const REAL *mean, const REAL *var, NEW_MAP dx, OUT dweight, OUT dbias,
                             REAL *work, size room)
{
    const Layout l = layout_of(maps);
    const size channels = maps->channels;
    REAL *scale = work, *offset = work + room, *part = work + 2 * room, *part_x = work + 3 * room;
    REAL *level = work + 4 * room, *slope = work + 5 * room, *centre = work + 6 * room;
    find_scale(maps, &l, weight, bias, mean, var, eps, scale, offset);
    if (weight) {
        double total[2][channels];
        REAL value[2][channels];
        spread(l.length, l.inner, channels, mean, centre);
        for (size c = 0; c < channels; c++) total[0][c] = total[1][c] = 0;
        for (size k = 0; k < l.length; k++) part[k] = part_x[k] = 0;
        FOR_ROWS(l) {
            if (l.pixels == 4)
                add_pooled(l.length, FOUR(x, l), scale, offset, centre, g + small, least, part, part_x);
            else add_scaled(l.length, x + at, scale, offset, centre, g + small, least, part, part_x);
            if (c == l.columns - 1 && r == l.rows - 1 && (n % FLUSH == FLUSH - 1 || n == l.num - 1)) {
                flush(l.length, l.inner, channels, part, total[0]);
                flush(l.length, l.inner, channels, part_x, total[1]);
            }
        }
        const double count = (double) l.num * maps->height * maps->width * (maps->form == BLOCKS ? 4 : 1);
        for (size c = 0; c < channels; c++) {
            const double rstd = 1 / sqrt(var[c] + eps), mean_product = total[1][c] * rstd * rstd / count;
            dbias[c] = total[0][c];
            dweight[c] = total[1][c] * rstd;
            value[1][c] = -weight[c] * rstd * mean_product;
            value[0][c] = -weight[c] * rstd * (total[0][c] / count - mean_product * mean[c]);
        }
        spread(l.length, l.inner, channels, value[0], level);
        spread(l.length, l.inner, channels, value[1], slope);
    } else
        for (size k = 0; k < l.length; k++) level[k] = slope[k] = 0;
    if (l.pixels == 1)
        FOR_ROWS(l) unscale_row(l.length, x + at, scale, offset, level, slope, g + small, least, dx + at);
    else if (weight)
        FOR_ROWS(l) unpool_row(l.length, FOUR(x, l), scale, offset, level, slope, g + small, least, 1, FOUR(dx, l));
    else FOR_ROWS(l) unpool_row(l.length, FOUR(x, l), scale, offset, level, slope, g + small, least, 0, FOUR(dx, l));
    if (maps->form == WINDOWS) leave_out(maps, x, level, slope, weight != NULL, dx);
}
