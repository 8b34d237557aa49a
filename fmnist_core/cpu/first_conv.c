/* A network's first convolution on a CPU: of grey images, stride 1, to few channels, with its output in blocks.

A block is 2 x 2 pixels that a pool takes the largest of; blocks are (N, 4, C, H/2, W/2), a pixel's place in its block
first, as norm_pool_relu.c takes them. Of the pixels of one place, neighbours are two apart in the image: it is sorted
into four phases, by odd and even rows and columns, where they lie side by side and fill a vector. */

#include "native.h"

#define MAX_CHANNELS 8
#define MAX_KERNEL 7
#define MAX_TAPS (MAX_KERNEL * MAX_KERNEL)
#define TOGETHER 4
#define FLUSH 8 /* images whose sums are of REAL; those are then added up as double */

typedef __typeof__((vector) {0} == (vector) {0}) mask;

/* Images, H x W; channels of the output, and rows and columns of its blocks. */
typedef struct { size num, height, width, channels, kernel, padding, rows, columns; } Conv;

/* A phase's line, which vectors may read past its last number, and what one phase takes. */
static size line_of(const Conv *c) { return c->columns + c->kernel / 2 + LANES; }
static size phase_of(const Conv *c) { return (c->rows + c->kernel / 2) * line_of(c); }

static void sort(const Conv *c, IN image, OUT phases)
{
    memset(phases, 0, 4 * phase_of(c) * sizeof *phases);
    for (size y = 0; y < c->height; y++) {
        const size row = y + c->padding;
        if (row / 2 >= c->rows + c->kernel / 2) break;
        for (size v = 0; v < 2; v++) {
            const size first = (c->padding + v) % 2; /* of the pixels that phase v has */
            OUT line = phases + (row % 2 * 2 + v) * phase_of(c) + row / 2 * line_of(c) + (first + c->padding) / 2;
            IN from = image + y * c->width + first;
            const size fit = line_of(c) - (first + c->padding) / 2, has = (c->width - first + 1) / 2;
            const size num = has < fit ? has : fit;
            for (size s = 0; s < num; s++) line[s] = from[2 * s];
        }
    }
}

/* Where in the phases lies what the filter's tap meets, for place b of the first block. */
static void find_taps(const Conv *c, size tap[4][MAX_TAPS])
{
    for (size b = 0; b < 4; b++)
        for (size t = 0; t < c->kernel * c->kernel; t++) {
            const size u = b / 2 + t / c->kernel, v = b % 2 + t % c->kernel;
            tap[b][t] = (u % 2 * 2 + v % 2) * phase_of(c) + u / 2 * line_of(c) + v / 2;
        }
}

/* `phases`: room for 4 * (rows + kernel / 2) * (columns + kernel / 2 + 16) numbers. */
void convolve(const Conv *c, IN images, IN weight, const REAL *bias, OUT blocks, OUT phases)
{
    const size taps = c->kernel * c->kernel, plane = c->rows * c->columns;
    size tap[4][MAX_TAPS];
    REAL filter[MAX_CHANNELS / TOGETHER][MAX_TAPS][TOGETHER] = {0}, offset[MAX_CHANNELS] = {0};
    find_taps(c, tap);
    for (size o = 0; o < c->channels; o++) {
        if (bias) offset[o] = bias[o];
        for (size t = 0; t < taps; t++) filter[o / TOGETHER][t][o % TOGETHER] = weight[o * taps + t];
    }
    for (size n = 0; n < c->num; n++) {
        sort(c, images + n * c->height * c->width, phases);
        for (size b = 0; b < 4; b++)
            for (size o = 0; o < c->channels; o += TOGETHER)
                for (size r = 0; r < c->rows; r++)
                    for (size column = 0; column < c->columns; column += LANES) {
                        const REAL *from = phases + r * line_of(c) + column;
                        vector sum[TOGETHER];
                        for (size k = 0; k < TOGETHER; k++) sum[k] = (vector) {0} + offset[o + k];
                        for (size t = 0; t < taps; t++) {
                            const vector x = load(from + tap[b][t]);
                            for (size k = 0; k < TOGETHER; k++) sum[k] += x * filter[o / TOGETHER][t][k];
                        }
                        const size at = r * c->columns + column, left = c->columns - column;
                        for (size k = 0; k < TOGETHER && o + k < c->channels; k++) {
                            REAL *to = blocks + ((n * 4 + b) * c->channels + o + k) * plane + at;
                            if (at + LANES <= plane) memcpy(to, &sum[k], sizeof(vector)); /* too much: the next row's */
                            else memcpy(to, &sum[k], (left < LANES ? left : LANES) * sizeof *to);
                        }
                    }
    }
}

/* The first `left` numbers, if there are not more, and then zeros. Nothing is read from `end` on. */
INLINE vector load_left(const REAL *from, size left, mask is_left, const REAL *end)
{
    if (from + LANES <= end) return (vector) ((mask) load(from) & is_left);
    vector v = {0};
    memcpy(&v, from, (left < LANES ? left : LANES) * sizeof *from);
    return v;
}

/* For one image and one channel: the sums of `num` taps, and after them that of the gradient. */
INLINE void add_taps(const Conv *c, const size num, IN g, const REAL *end, IN phases,
                            const size tap[4][MAX_TAPS], size first, vector *total)
{
    vector sum[MAX_TAPS], of_all = {0};
    for (size t = 0; t < num; t++) sum[t] = total[t];
    for (size column = 0; column < c->columns; column += LANES) {
        const size left = c->columns - column;
        mask is_left;
        for (size k = 0; k < LANES; k++) is_left[k] = k < left ? -1 : 0;
        for (size b = 0; b < 4; b++)
            for (size r = 0; r < c->rows; r++) {
                const vector given = load_left(g + (b * c->channels * c->rows + r) * c->columns + column, left,
                                               is_left, end);
                of_all += given;
                for (size t = 0; t < num; t++)
                    sum[t] += given * load(phases + tap[b][first + t] + r * line_of(c) + column);
            }
    }
    for (size t = 0; t < num; t++) total[t] = sum[t];
    if (first == 0) total[c->kernel * c->kernel] += of_all;
}

/* Gradients of the weight, (C, kernel, kernel), and the bias; `g`: of the blocks. */
void convolve_backward(const Conv *c, IN g, IN images, OUT dweight, OUT dbias, OUT phases)
{
    const size taps = c->kernel * c->kernel, plane = c->rows * c->columns;
    const REAL *end = g + c->num * 4 * c->channels * plane;
    size tap[4][MAX_TAPS];
    vector sum[MAX_CHANNELS][MAX_TAPS + 1] = {0};
    double total[MAX_CHANNELS][MAX_TAPS + 1] = {0};
    find_taps(c, tap);
    for (size n = 0; n < c->num; n++) {
        sort(c, images + n * c->height * c->width, phases);
        for (size o = 0; o < c->channels; o++) {
            const REAL *of_channel = g + (n * 4 * c->channels + o) * plane;
            for (size t = 0; t < taps; t += c->kernel <= 3 ? taps : c->kernel)
                switch (c->kernel) { /* a number that the compiler knows keeps its sums in registers */
#define CASE(k, num) case k: add_taps(c, num, of_channel, end, phases, tap, t, sum[o] + t); break;
                    CASE(1, 1) CASE(2, 4) CASE(3, 9) CASE(4, 4) CASE(5, 5) CASE(6, 6) CASE(7, 7)
                }
        }
        if (n % FLUSH == FLUSH - 1 || n == c->num - 1)
            for (size o = 0; o < c->channels; o++)
                for (size t = 0; t <= taps; t++) {
                    for (size k = 0; k < LANES; k++) total[o][t] += sum[o][t][k];
                    sum[o][t] = (vector) {0};
                }
    }
    for (size o = 0; o < c->channels; o++) {
        dbias[o] = total[o][taps];
        for (size t = 0; t < taps; t++) dweight[o * taps + t] = total[o][t];
    }
}
