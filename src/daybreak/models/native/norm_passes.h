/* The passes for one number format TYPE and a pool of POOL x POOL (1: none): included by norm.c. */
#define LARGE(n, y, x) (((n * s.height + (y)) * s.width + (x)) * s.channels + c)
#define SMALL(n, y, x) (((n * height + (y)) * width + (x)) * s.channels + c)
#define SIZES const int64_t height = s.height / POOL, width = s.width / POOL

/* The largest of each window, where it was, and for each image and channel the sum of what is left and of its square,
   both of the distance to `origin`: near the mean, sums of squares lose no digits. */
int NAME(pool, POOL, TYPE)(shape s, const TYPE *x, const float *origin, TYPE *pooled, uint8_t *where, float *sums) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++) {
        float *mine = sums + n * 2 * s.channels;
        memset(mine, 0, 2 * s.channels * sizeof(float));
        for (int64_t i = 0; i < height; i++)
            for (int64_t j = 0; j < width; j++)
                EACH_CHANNEL {
                    lanes values[POOL * POOL];
                    UNROLLED for (int k = 0; k < POOL * POOL; k++)
                        values[k] = LOAD(TYPE)(x + LARGE(n, i * POOL + k / POOL, j * POOL + k % POOL), left);
                    words at;
                    const lanes best = largest(POOL * POOL, values, &at);
#if POOL > 1
                    store_places(where + SMALL(n, i, j), at, left);
                    STORE(TYPE)(pooled + SMALL(n, i, j), best, left);
#endif
                    lanes d = best - load_float(origin + c, left);
                    store_float(mine + c, load_float(mine + c, left) + d, left);
                    store_float(mine + s.channels + c, load_float(mine + s.channels + c, left) + d * d, left);
                }
    }
    return 0;
}

#define ACT relu
#include "norm_acts.h"
#undef ACT
#define ACT silu
#include "norm_acts.h"
#undef ACT
#undef LARGE
#undef SMALL
#undef SIZES
