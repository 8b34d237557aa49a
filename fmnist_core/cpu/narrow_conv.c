/* A convolution of few channels to many on a CPU, stride 1, channels_last, and its gradients.

What a row of a filter meets, kernel x in numbers, lies side by side in a map; each is multiplied by a vector of output
channels. In the maps' gradient such vectors meet, lane by lane, and the lanes are added at the end. Maps are padded
image by image. Filters are (kernel, kernel, in, out) here. */

#include "native.h"

#define PIXELS 7 /* at a time, a vector of sums each */
#define SUMS (VECTOR == 64 ? 16 : 10) /* as many as the processor has room for */
#define MAX_IN 4
#define FLUSH 8 /* images whose sums are of REAL; those are then added up as double */

/* Maps, H x W of `in` channels; `out`: a multiple of a vector; rows and columns of the output. */
typedef struct { size num, height, width, in, out, kernel, padding, rows, columns; } Conv;

static size line_of(const Conv *c) { return (c->width + 2 * c->padding) * c->in; }
static size padded_of(const Conv *c) { return (c->height + 2 * c->padding) * line_of(c); }

static void pad(const Conv *c, IN map, OUT padded)
{
    for (size y = 0; y < c->height; y++)
        memcpy(padded + (y + c->padding) * line_of(c) + c->padding * c->in, map + y * c->width * c->in,
               c->width * c->in * sizeof *map);
}

INLINE void convolve_pixels(const Conv *c, const size num, const REAL *from, IN filter, vector bias, REAL *to)
{
    const size row = c->kernel * c->in, line = line_of(c), in = c->in, out = c->out;
    vector sum[PIXELS];
    for (size p = 0; p < num; p++) sum[p] = bias;
    for (size i = 0; i < c->kernel; i++)
        for (size k = 0; k < row; k++) {
            const vector weight = load(filter + (i * row + k) * out);
            for (size p = 0; p < num; p++) sum[p] += weight * from[i * line + p * in + k];
        }
    for (size p = 0; p < num; p++) memcpy(to + p * out, &sum[p], sizeof(vector));
}

/* `weight`: (out, kernel, kernel, in); `work`: room for it and a padded map. */
void convolve(const Conv *c, IN maps, IN weight, const REAL *bias, OUT y, REAL *work)
{
    const size taps = c->kernel * c->kernel * c->in;
    REAL *filter = work, *padded = work + taps * c->out;
    for (size o = 0; o < c->out; o++)
        for (size t = 0; t < taps; t++) filter[t * c->out + o] = weight[o * taps + t];
    memset(padded, 0, padded_of(c) * sizeof *padded);
    for (size n = 0; n < c->num; n++) {
        pad(c, maps + n * c->height * c->width * c->in, padded);
        for (size o = 0; o < c->out; o += LANES) {
            const vector offset = bias ? load(bias + o) : (vector) {0};
            for (size r = 0; r < c->rows; r++) {
                const REAL *from = padded + r * line_of(c);
                REAL *to = y + (n * c->rows + r) * c->columns * c->out + o;
                size x = 0;
                for (; x + PIXELS <= c->columns; x += PIXELS)
                    convolve_pixels(c, PIXELS, from + x * c->in, filter + o, offset, to + x * c->out);
                for (; x < c->columns; x++)
                    convolve_pixels(c, 1, from + x * c->in, filter + o, offset, to + x * c->out);
            }
        }
    }
}

/* For one image and one vector of output channels: the sums of `num` neighbouring taps. */
INLINE void add_taps(const Conv *c, const size num, const REAL *from, const REAL *g, REAL *total)
{
    vector sum[SUMS];
    for (size k = 0; k < num; k++) sum[k] = load(total + k * c->out);
    for (size r = 0; r < c->rows; r++)
        for (size x = 0; x < c->columns; x++) {
            const vector given = load(g + (r * c->columns + x) * c->out);
            const REAL *at = from + r * line_of(c) + x * c->in;
            for (size k = 0; k < num; k++) sum[k] += given * at[k];
        }
    for (size k = 0; k < num; k++) memcpy(total + k * c->out, &sum[k], sizeof(vector));
}

/* `part`, (kernel, kernel, in, out) and then (out), gets one image's sums more. */
static void add_image(const Conv *c, const REAL *g, const REAL *padded, REAL *part)
{
    const size row = c->kernel * c->in, times = (row + SUMS - 1) / SUMS, most = (row + times - 1) / times;
    for (size o = 0; o < c->out; o += LANES)
        for (size t = 0; t < c->kernel * row; t += row)
            for (size k = 0; k < row; k += most) {
                const REAL *from = padded + t / row * line_of(c) + k;
                REAL *to = part + (t + k) * c->out + o;
                switch (row - k < most ? row - k : most) { /* a number that the compiler knows keeps sums in registers */
#define CASE(num) case num: add_taps(c, num, from, g + o, to); break;
                    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10)
#if VECTOR == 64
                    CASE(11) CASE(12) CASE(13) CASE(14) CASE(15) CASE(16)
#endif
                }
            }
    for (size o = 0; o < c->out; o += LANES) {
        REAL *of_bias = part + c->kernel * row * c->out + o;
        vector sum = load(of_bias);
        for (size pixel = 0; pixel < c->rows * c->columns; pixel++) sum += load(g + pixel * c->out + o);
        memcpy(of_bias, &sum, sizeof sum);
    }
}

/* Sums of neighbours, those of `a` first. */
static inline vector add_pairs(vector a, vector b)
{
#ifdef __clang__
    vector sum;
    for (size k = 0; k < LANES / 2; k++) sum[k] = a[2 * k] + a[2 * k + 1], sum[LANES / 2 + k] = b[2 * k] + b[2 * k + 1];
    return sum;
#else
    __typeof__(a < b) even, odd;
    for (size k = 0; k < LANES; k++) even[k] = 2 * k, odd[k] = 2 * k + 1;
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
#endif
}

/* The maps' gradient at as many pixels as fill a vector with their `channels`: 2, or 4 of which the last may be none. */
INLINE void gather_pixels(const Conv *c, const size channels, const REAL *const *from, IN filter, REAL *to)
{
    const size num = LANES > channels ? LANES : channels, line = (c->width + c->kernel - 1) * c->out;
    vector sum[LANES > MAX_IN ? LANES : MAX_IN] = {{0}};
    for (size i = 0; i < c->kernel; i++)
        for (size k = 0; k < c->kernel * c->out; k += LANES) {
            const REAL *taps = filter + (i * c->kernel * c->out + k) * channels;
#pragma GCC unroll 16
            for (size s = 0; s < num; s++)
                sum[s] += load(from[s / channels] + i * line + k) * load(taps + s % channels * LANES);
        }
#pragma GCC unroll 4
    for (size left = num; left > num / LANES; left /= 2)
#pragma GCC unroll 8
        for (size s = 0; s < left / 2; s++) sum[s] = add_pairs(sum[2 * s], sum[2 * s + 1]);
    memcpy(to, sum, num * sizeof *to);
}

INLINE void gather(const Conv *c, const size channels, IN g, IN filter, REAL *padded, OUT dmaps)
{
    const size border = c->kernel - 1 - c->padding, line = (c->width + c->kernel - 1) * c->out;
    const size pixels = LANES > channels ? LANES / channels : 1;
    for (size r = 0; r < c->rows; r++)
        memcpy(padded + (r + border) * line + border * c->out, g + r * c->columns * c->out,
               c->columns * c->out * sizeof *g);
    size x = 0, y = 0;
    for (size first = 0; first < c->height * c->width; first += pixels) {
        const size num = c->height * c->width - first < pixels ? c->height * c->width - first : pixels;
        const REAL *from[LANES];
        REAL found[LANES > MAX_IN ? LANES : MAX_IN];
        for (size p = 0; p < pixels; p++) { /* past the last pixel: that one again */
            from[p] = padded + y * line + x * c->out;
            if ((p < num - 1 || num == pixels) && ++x == c->width) x = 0, y++;
        }
        gather_pixels(c, channels, from, filter, found);
        for (size p = 0; p < num; p++) memcpy(dmaps + (first + p) * c->in, found + p * channels, c->in * sizeof *found);
    }
}

/* Gradient of the maps. `work`: room for a weight of 2 or 4 channels and the gradient g of an image with its border. */
void convolve_maps_backward(const Conv *c, IN g, IN weight, OUT dmaps, REAL *work)
{
    const size channels = c->in > 2 ? 4 : 2, taps = c->kernel * c->kernel;
    REAL *filter = work, *padded = work + taps * channels * c->out;
    for (size t = 0; t < taps; t++) /* backwards, and vector by vector */
        for (size o = 0; o < c->out; o++)
            for (size k = 0; k < channels; k++)
                filter[((t * c->out + o - o % LANES) * channels) + k * LANES + o % LANES] =
                    k < c->in ? weight[(o * taps + taps - 1 - t) * c->in + k] : 0;
    memset(padded, 0, (c->height + c->kernel - 1) * (c->width + c->kernel - 1) * c->out * sizeof *padded);
    for (size n = 0; n < c->num; n++) {
        const REAL *given = g + n * c->rows * c->columns * c->out;
        REAL *found = dmaps + n * c->height * c->width * c->in;
        if (channels == 2) gather(c, 2, given, filter, padded, found);
        else gather(c, 4, given, filter, padded, found);
    }
}

/* Gradients of the weight, (out, kernel, kernel, in), and the bias. `total` and, after a padded map, `work`: room for
   both. */
void convolve_backward(const Conv *c, IN g, IN maps, OUT dweight, OUT dbias, double *restrict total, REAL *work)
{
    const size taps = c->kernel * c->kernel * c->in, all = (taps + 1) * c->out;
    REAL *padded = work, *part = work + padded_of(c);
    memset(padded, 0, padded_of(c) * sizeof *padded);
    for (size k = 0; k < all; k++) part[k] = total[k] = 0;
    for (size n = 0; n < c->num; n++) {
        pad(c, maps + n * c->height * c->width * c->in, padded);
        add_image(c, g + n * c->rows * c->columns * c->out, padded, part);
        if (n % FLUSH == FLUSH - 1 || n == c->num - 1)
            for (size k = 0; k < all; k++) total[k] += part[k], part[k] = 0;
    }
    for (size o = 0; o < c->out; o++) {
        dbias[o] = total[taps * c->out + o];
        for (size t = 0; t < taps; t++) dweight[o * taps + t] = total[t * c->out + o];
    }
}
