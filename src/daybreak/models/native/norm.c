/* Max-pool, batch norm and activation of a training step in as few passes over the maps as there can be.
 *
 * Maps are channels last. Sums over an image are kept for each image, and added up by whoever called: bits do not depend
 * on the number of threads.
 */
#include "vectors.h"

typedef struct {
    int64_t images, height, width, channels; /* before the pool */
} shape;

/* e^x to about one unit in the last place; 0 below -87, inf above 88 (Cephes' expf: e^x = 2^n e^r). */
INLINE lanes exponential(lanes x) {
    words too_low = (words)(x < -87.0f), too_high = (words)(x > 88.0f);
    x = (lanes)((too_low & (words)((lanes){0} - 87.0f)) | (~too_low & (words)x));
    x = (lanes)((too_high & (words)((lanes){0} + 88.0f)) | (~too_high & (words)x));
    const float rounding = 12582912.0f; /* 1.5 * 2^23: the fraction of a float that is this large is gone */
    lanes n = (x * 1.44269504088896341f + rounding) - rounding;
    lanes r = x - n * 0.693359375f - n * -2.12194440e-4f;
    lanes p = {0};
    p = 1.9875691500e-4f + p;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    words power = (words)((__builtin_convertvector(n, integers) + 127) << 23);
    lanes found = p * (lanes)power;
    return (lanes)((~too_low & (words)found));
}

INLINE lanes relu(lanes z) {
    words positive = (words)(z > 0.0f) | (words)(z != z);
    return (lanes)(positive & (words)z);
}

INLINE lanes relu_slope(lanes z) {
    words positive = (words)(z > 0.0f);
    return (lanes)(positive & (words)((lanes){0} + 1.0f));
}

INLINE lanes silu(lanes z) { return z / (1.0f + exponential(-z)); }

INLINE lanes silu_slope(lanes z) {
    lanes sigmoid = 1.0f / (1.0f + exponential(-z));
    return sigmoid * (1.0f + z * (1.0f - sigmoid));
}

#define EACH_CHANNEL for (int64_t c = 0, left = s.channels; c < s.channels; c += LANES, left -= LANES)
#define NAME_(what, pool, type) what##_##pool##_##type
#define NAME(what, pool, type) NAME_(what, pool, type)
#define ACT_NAME_(what, act, pool, type) what##_##act##_##pool##_##type
#define ACT_NAME(what, act, pool, type) ACT_NAME_(what, act, pool, type)
#define SLOPE_(act) act##_slope
#define SLOPE(act) SLOPE_(act)

#define TYPE float
#define POOL 1
#include "norm_passes.h"
#undef POOL
#define POOL 2
#include "norm_passes.h"
#undef POOL
#undef TYPE
#define TYPE bfloat16
#define POOL 1
#include "norm_passes.h"
#undef POOL
#define POOL 2
#include "norm_passes.h"
#undef POOL
#undef TYPE
