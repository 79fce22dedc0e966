/* The four passes over a batch of maps, for one number format TYPE and 2 N outputs a tile: included by winograd.c. */
#define M (2 * N)
#define SIDE (2 * N + 2)
#define MINE(what) NAMED(what, N, TYPE)
#define SQUARE(i, j, side) \
    for (int i = 0; i < side; i++) \
        for (int j = 0; j < side; j++)
#define INSIDE(y, x) ((y) >= 0 && (y) < s.height && (x) >= 0 && (x) < s.width)
#define PIXEL(y, x) (((n * s.height + (y)) * s.width + (x)) * s.channels + at)

/* Every tile of image n, a vector of channels at a time: `left` channels from `at` on, of tile number `tile`. */
#define EACH_TILE_OF_AN_IMAGE                                                                      \
    for (int64_t down = 0, tile = n * tiles_down * tiles_across; down < tiles_down; down++)        \
        for (int64_t across = 0; across < tiles_across; across++, tile++)                          \
            for (int64_t at = 0, left = s.channels; at < s.channels; at += LANES, left -= LANES)

#define SIZES const int64_t tiles_down = (s.height + M - 1) / M, tiles_across = (s.width + M - 1) / M

/* Maps to tiles at the points: B^T d B. */
void MINE(input)(maps s, const TYPE *x, TYPE *at_points) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++)
        EACH_TILE_OF_AN_IMAGE {
            const int64_t top = down * M - 1, start = across * M - 1;
            lanes d[SIDE][SIDE], v[SIDE][SIDE];
            SQUARE(i, j, SIDE)
                d[i][j] = INSIDE(top + i, start + j) ? LOAD(TYPE)(x + PIXEL(top + i, start + j), left) : (lanes){0};
            BOTH_WAYS(in_line, SIDE, SIDE, d, v);
            TYPE *to = at_points + tile * s.channels + at;
            SQUARE(i, j, SIDE) STORE(TYPE)(to + (i * SIDE + j) * s.stride, v[i][j], left);
        }
}

/* The gradient of `input`: tiles overlap by two, and what falls on a pixel is added up, in float32. */
void MINE(input_transposed)(maps s, const TYPE *at_points, TYPE *x) {
    SIZES;
    const int64_t pixels = s.height * s.width * s.channels;
    const int rounds = sizeof(TYPE) < sizeof(float);
#pragma omp parallel
    {
        float *own = rounds ? malloc(pixels * sizeof(float)) : 0;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < s.images; n++) {
            TYPE *to = x + n * pixels;
            float *sums = rounds ? own : (float *)to;
            memset(sums, 0, pixels * sizeof(float));
            EACH_TILE_OF_AN_IMAGE {
                const int64_t top = down * M - 1, start = across * M - 1;
                lanes d[SIDE][SIDE], v[SIDE][SIDE];
                const TYPE *from = at_points + tile * s.channels + at;
                SQUARE(i, j, SIDE) v[i][j] = LOAD(TYPE)(from + (i * SIDE + j) * s.stride, left);
                BOTH_WAYS(in_line_transposed, SIDE, SIDE, v, d);
                SQUARE(i, j, SIDE)
                    if (INSIDE(top + i, start + j)) {
                        float *sum = sums + PIXEL(top + i, start + j) - n * pixels;
                        store_float(sum, load_float(sum, left) + d[i][j], left);
                    }
            }
            for (int64_t k = 0; rounds && k < pixels; k += LANES)
                STORE(TYPE)(to + k, load_float(sums + k, pixels - k), pixels - k);
        }
        free(own);
    }
}

/* Tiles at the points to maps: A^T M A. */
void MINE(output)(maps s, const TYPE *at_points, TYPE *y) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++)
        EACH_TILE_OF_AN_IMAGE {
            const int64_t top = down * M, start = across * M;
            lanes v[SIDE][SIDE], found[M][M];
            const TYPE *from = at_points + tile * s.channels + at;
            SQUARE(i, j, SIDE) v[i][j] = LOAD(TYPE)(from + (i * SIDE + j) * s.stride, left);
            BOTH_WAYS(out_line, SIDE, M, v, found);
            SQUARE(i, j, M)
                if (INSIDE(top + i, start + j)) STORE(TYPE)(y + PIXEL(top + i, start + j), found[i][j], left);
        }
}

/* The gradient of `output`. */
void MINE(output_transposed)(maps s, const TYPE *y, TYPE *at_points) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++)
        EACH_TILE_OF_AN_IMAGE {
            const int64_t top = down * M, start = across * M;
            lanes v[SIDE][SIDE], given[M][M];
            SQUARE(i, j, M)
                given[i][j] = INSIDE(top + i, start + j) ? LOAD(TYPE)(y + PIXEL(top + i, start + j), left) : (lanes){0};
            BOTH_WAYS(out_line_transposed, M, SIDE, given, v);
            TYPE *to = at_points + tile * s.channels + at;
            SQUARE(i, j, SIDE) STORE(TYPE)(to + (i * SIDE + j) * s.stride, v[i][j], left);
        }
}

#undef M
#undef SIDE
#undef MINE
#undef SQUARE
#undef INSIDE
#undef PIXEL
#undef EACH_TILE_OF_AN_IMAGE
#undef SIZES
