/* What depends on the activation ACT: included by norm_passes.h. `pooled` is what came out of the pool. */

/* act(scale * pooled + shift) */
int ACT_NAME(norm, ACT, POOL, TYPE)(shape s, const TYPE *pooled, const float *scale, const float *shift, TYPE *out) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++)
        for (int64_t i = 0; i < height; i++)
            for (int64_t j = 0; j < width; j++)
                EACH_CHANNEL {
                    lanes z = LOAD(TYPE)(pooled + SMALL(n, i, j), left) * load_float(scale + c, left);
                    STORE(TYPE)(out + SMALL(n, i, j), ACT(z + load_float(shift + c, left)), left);
                }
    return 0;
}

/* For each image and channel the sum of the gradient before the activation, and of its product with pooled - mean. */
int ACT_NAME(gradient_sums, ACT, POOL, TYPE)(shape s, const TYPE *gradient, const TYPE *pooled, const float *scale,
                                             const float *shift, const float *mean, float *sums) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++) {
        float *mine = sums + n * 2 * s.channels;
        memset(mine, 0, 2 * s.channels * sizeof(float));
        for (int64_t i = 0; i < height; i++)
            for (int64_t j = 0; j < width; j++)
                EACH_CHANNEL {
                    lanes p = LOAD(TYPE)(pooled + SMALL(n, i, j), left);
                    lanes z = p * load_float(scale + c, left) + load_float(shift + c, left);
                    lanes g = LOAD(TYPE)(gradient + SMALL(n, i, j), left) * SLOPE(ACT)(z);
                    lanes d = p - load_float(mean + c, left);
                    store_float(mine + c, load_float(mine + c, left) + g, left);
                    store_float(mine + s.channels + c, load_float(mine + s.channels + c, left) + g * d, left);
                }
    }
    return 0;
}

/* The gradient of the maps before the pool: scale * (g - offset - (pooled - mean) * slope), where the largest was. */
int ACT_NAME(gradient, ACT, POOL, TYPE)(shape s, const TYPE *gradient, const TYPE *pooled, const uint8_t *where,
                                        const float *scale, const float *shift, const float *mean,
                                        const float *offset, const float *slope, TYPE *dx) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++) {
        if (s.height % POOL || s.width % POOL) { /* a last row or column is in no window */
            const int64_t pixels = s.height * s.width * s.channels;
            memset(dx + n * pixels, 0, pixels * sizeof(TYPE));
        }
        for (int64_t i = 0; i < height; i++)
            for (int64_t j = 0; j < width; j++)
                EACH_CHANNEL {
                    lanes p = LOAD(TYPE)(pooled + SMALL(n, i, j), left), scaled = load_float(scale + c, left);
                    lanes z = p * scaled + load_float(shift + c, left);
                    lanes g = LOAD(TYPE)(gradient + SMALL(n, i, j), left) * SLOPE(ACT)(z);
                    lanes d = p - load_float(mean + c, left);
                    g = scaled * (g - load_float(offset + c, left) - d * load_float(slope + c, left));
#if POOL > 1
                    words at = load_places(where + SMALL(n, i, j), left);
                    UNROLLED for (int k = 0; k < POOL * POOL; k++)
                        STORE(TYPE)(dx + LARGE(n, i * POOL + k / POOL, j * POOL + k % POOL), only_at(at, k, g), left);
#else
                    STORE(TYPE)(dx + LARGE(n, i, j), g, left);
#endif
                }
    }
    return 0;
}
