/* The transforms of Winograd convolutions, F(m x m, 3 x 3) for m = 2, 4, 6, on maps that are channels last.
 *
 * Each pass reads its tiles once, transforms rows and columns in registers, a vector of channels at a time, and writes
 * once. An image belongs to one thread and sums run in one order, so that bits do not depend on the number of threads.
 *
 * `at_points` is (m+2)^2 matrices of tiles by channels; `stride` is from one matrix to the next, in elements.
 * Rows and columns of a tile outside the map count as zeros, which is the padding by one.
 */
#include "vectors.h"

typedef struct {
    int64_t images, height, width, channels, stride;
} maps;

/* A layer, the groups of images whose gradients are summed by themselves, and the floats that a core's cache has room
   for. */
typedef struct {
    int64_t images, height, width, in_channels, out_channels, groups, room;
} layer;

/* p^k for the powers k of an output, and the coefficients in x^2 of the product of (x^2 - q^2), over all pairs of points
   and over all but one: minimal.py. constants.h has them for n pairs as constants_n; it is written when this is built. */
typedef struct {
    float power[3][6], all[4], others[3][3];
} constants;

#include "constants.h"

/* One line of a tile. n is the number of pairs of points, known when this is compiled; m = 2 n. */

INLINE void in_line(const int n, const constants *c, const lanes *d, lanes *v) {
    lanes zero = c->all[0] * d[0], infinity = c->all[0] * d[1];
    UNROLLED for (int k = 1; k <= n; k++) {
        zero += c->all[k] * d[2 * k];
        infinity += c->all[k] * d[2 * k + 1];
    }
    v[0] = zero;
    v[2 * n + 1] = infinity;
    UNROLLED for (int i = 0; i < n; i++) {
        lanes even = c->others[i][0] * d[2], odd = c->others[i][0] * d[1];
        UNROLLED for (int k = 1; k < n; k++) {
            even += c->others[i][k] * d[2 * k + 2];
            odd += c->others[i][k] * d[2 * k + 1];
        }
        odd *= c->power[i][1];
        v[2 * i + 1] = even + odd;
        v[2 * i + 2] = even - odd;
    }
}

INLINE void in_line_transposed(int n, const constants *c, const lanes *v, lanes *d) {
    UNROLLED for (int k = 0; k <= n; k++) {
        d[2 * k] = c->all[k] * v[0];
        d[2 * k + 1] = c->all[k] * v[2 * n + 1];
    }
    UNROLLED for (int i = 0; i < n; i++) {
        lanes sum = v[2 * i + 1] + v[2 * i + 2], difference = c->power[i][1] * (v[2 * i + 1] - v[2 * i + 2]);
        UNROLLED for (int k = 0; k < n; k++) {
            d[2 * k + 2] += c->others[i][k] * sum;
            d[2 * k + 1] += c->others[i][k] * difference;
        }
    }
}

INLINE void out_line(int n, const constants *c, const lanes *v, lanes *y) {
    y[0] = v[0];
    UNROLLED for (int k = 1; k < 2 * n - 1; k++) y[k] = (lanes){0};
    y[2 * n - 1] = v[2 * n + 1];
    UNROLLED for (int i = 0; i < n; i++) {
        lanes sum = v[2 * i + 1] + v[2 * i + 2], difference = v[2 * i + 1] - v[2 * i + 2];
        UNROLLED for (int k = 0; k < n; k++) {
            y[2 * k] += c->power[i][2 * k] * sum;
            y[2 * k + 1] += c->power[i][2 * k + 1] * difference;
        }
    }
}

INLINE void out_line_transposed(int n, const constants *c, const lanes *y, lanes *v) {
    v[0] = y[0];
    v[2 * n + 1] = y[2 * n - 1];
    UNROLLED for (int i = 0; i < n; i++) {
        lanes even = y[0], odd = c->power[i][1] * y[1];
        UNROLLED for (int k = 1; k < n; k++) {
            even += c->power[i][2 * k] * y[2 * k];
            odd += c->power[i][2 * k + 1] * y[2 * k + 1];
        }
        v[2 * i + 1] = even + odd;
        v[2 * i + 2] = even - odd;
    }
}

/* Rows, then columns: a FROM x FROM tile becomes TO x TO. */
#define BOTH_WAYS(line, FROM, TO, from, to)                                     \
    do {                                                                        \
        lanes half_[FROM][TO], in_[FROM], out_[TO];                             \
        UNROLLED for (int i = 0; i < FROM; i++) line(N, &CONSTANTS, (from)[i], half_[i]); \
        UNROLLED for (int j = 0; j < TO; j++) {                                 \
            UNROLLED for (int i = 0; i < FROM; i++) in_[i] = half_[i][j];       \
            line(N, &CONSTANTS, in_, out_);                                              \
            UNROLLED for (int i = 0; i < TO; i++) (to)[i][j] = out_[i];         \
        }                                                                       \
    } while (0)

#define NAMED_(what, n, type) what##_##n##_##type
#define NAMED(what, n, type) NAMED_(what, n, type)
#define CONSTANTS_(n) constants_##n
#define CONSTANTS_OF(n) CONSTANTS_(n)
#define CONSTANTS CONSTANTS_OF(N)

#define WHOLE(count, of) (((count) + (of)-1) / (of) * (of))

/* So many zeros, on a whole vector; nothing where there is no memory. */
static float *space(int64_t count) {
    const size_t bytes = WHOLE(count * sizeof(float), 64);
    float *found = aligned_alloc(64, bytes);
    return found ? memset(found, 0, bytes) : found;
}

int vector_lanes(void) { return LANES; }

#include "products.h"

#define TYPE float
#define N 1
#include "winograd_passes.h"
#include "winograd_whole.h"
#include "undefine.h"
#define N 2
#include "winograd_passes.h"
#include "winograd_whole.h"
#include "undefine.h"
#define N 3
#include "winograd_passes.h"
#include "winograd_whole.h"
#include "undefine.h"
#undef TYPE
#define TYPE bfloat16
#define N 1
#include "winograd_passes.h"
#include "undefine.h"
#define N 2
#include "winograd_passes.h"
#include "undefine.h"
#define N 3
#include "winograd_passes.h"
#include "undefine.h"
