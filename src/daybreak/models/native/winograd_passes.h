/* The four passes over maps, for one number format TYPE and 2 N outputs a tile: included by winograd.c.
 *
 * Each is there for one row of tiles, which is what winograd_whole.h works on, and for a batch of maps. `output` and
 * its gradient can have a max-pool by two behind them: then `y` is half as high and wide, and `where`, which is missing
 * otherwise, says which of its four each value of `y` was.
 * `width` is from one tile to the next in a matrix: the number of channels, or that with room for whole vectors. */
#define M (2 * N)
#define SIDE (2 * N + 2)
#define MINE(what) NAMED(what, N, TYPE)
#define SQUARE(i, j, side) \
    for (int i = 0; i < side; i++) \
        for (int j = 0; j < side; j++)
#define INSIDE(y, x) ((y) >= 0 && (y) < s.height && (x) >= 0 && (x) < s.width)
#define PIXEL(y, x) (((y) * s.width + (x)) * s.channels + at)
#define SMALL_INSIDE(y, x) ((y) < s.height / 2 && (x) < s.width / 2)
#define SMALL_PIXEL(y, x) (((y) * (s.width / 2) + (x)) * s.channels + at)
#define WINDOW(map, i, j, k) map[2 * (i) + (k) / 2][2 * (j) + (k) % 2]
#define TILES_DOWN ((s.height + M - 1) / M)
#define TILES_ACROSS ((s.width + M - 1) / M)

/* A row of tiles, a vector of channels at a time: `left` channels from `at` on, and `room` for them in the matrices. */
#define EACH_TILE_OF_A_ROW                                                                     \
    const int64_t tiles_across = TILES_ACROSS;                                                 \
    for (int64_t across = 0; across < tiles_across; across++)                                  \
        for (int64_t at = 0, left = s.channels, room = width; at < s.channels;                 \
             at += LANES, left -= LANES, room -= LANES)

#define SIZES                                                                                  \
    const int64_t tiles_down = TILES_DOWN, pixels = s.height * s.width * s.channels,           \
                  values = TILES_ACROSS * s.channels
#define EACH_ROW_OF_A_MAP for (int64_t down = 0, row = n * tiles_down; down < tiles_down; down++, row++)

/* A map to tiles at the points: B^T d B. */
INLINE void MINE(input_row)(maps s, const TYPE *x, int64_t down, TYPE *at_points, int64_t width) {
    EACH_TILE_OF_A_ROW {
        const int64_t top = down * M - 1, start = across * M - 1;
        lanes d[SIDE][SIDE], v[SIDE][SIDE];
        SQUARE(i, j, SIDE)
            d[i][j] = INSIDE(top + i, start + j) ? LOAD(TYPE)(x + PIXEL(top + i, start + j), left) : (lanes){0};
        BOTH_WAYS(in_line, SIDE, SIDE, d, v);
        TYPE *to = at_points + across * width + at;
        SQUARE(i, j, SIDE) STORE(TYPE)(to + (i * SIDE + j) * s.stride, v[i][j], room);
    }
}

/* The gradient of `input`: tiles overlap by two, and what falls on a pixel is added to its sum. */
INLINE void MINE(input_transposed_row)(maps s, const TYPE *at_points, int64_t down, float *sums, int64_t width) {
    EACH_TILE_OF_A_ROW {
        const int64_t top = down * M - 1, start = across * M - 1;
        lanes d[SIDE][SIDE], v[SIDE][SIDE];
        const TYPE *from = at_points + across * width + at;
        SQUARE(i, j, SIDE) v[i][j] = LOAD(TYPE)(from + (i * SIDE + j) * s.stride, room);
        BOTH_WAYS(in_line_transposed, SIDE, SIDE, v, d);
        SQUARE(i, j, SIDE)
            if (INSIDE(top + i, start + j)) {
                float *sum = sums + PIXEL(top + i, start + j);
                store_float(sum, load_float(sum, left) + d[i][j], left);
            }
    }
}

/* Tiles at the points to a map: A^T M A. */
INLINE void MINE(output_row)(const int pooled, maps s, const TYPE *at_points, int64_t down, TYPE *y, uint8_t *where,
                             int64_t width) {
    EACH_TILE_OF_A_ROW {
        const int64_t top = down * M, start = across * M;
        lanes v[SIDE][SIDE], found[M][M];
        const TYPE *from = at_points + across * width + at;
        SQUARE(i, j, SIDE) v[i][j] = LOAD(TYPE)(from + (i * SIDE + j) * s.stride, room);
        BOTH_WAYS(out_line, SIDE, M, v, found);
        if (!pooled)
            SQUARE(i, j, M) {
                if (INSIDE(top + i, start + j)) STORE(TYPE)(y + PIXEL(top + i, start + j), found[i][j], left);
            }
        else
            SQUARE(i, j, N) {
                const int64_t small_y = top / 2 + i, small_x = start / 2 + j;
                if (!SMALL_INSIDE(small_y, small_x)) continue;
                const lanes four[] = {WINDOW(found, i, j, 0), WINDOW(found, i, j, 1), WINDOW(found, i, j, 2),
                                      WINDOW(found, i, j, 3)};
                words place;
                STORE(TYPE)(y + SMALL_PIXEL(small_y, small_x), largest(4, four, &place), left);
                store_places(where + SMALL_PIXEL(small_y, small_x), place, left);
            }
    }
}

/* The gradient of `output`. */
INLINE void MINE(output_transposed_row)(const int pooled, maps s, const TYPE *y, const uint8_t *where, int64_t down,
                                        TYPE *at_points, int64_t width) {
    EACH_TILE_OF_A_ROW {
        const int64_t top = down * M, start = across * M;
        lanes v[SIDE][SIDE], given[M][M];
        if (!pooled)
            SQUARE(i, j, M)
                given[i][j] = INSIDE(top + i, start + j) ? LOAD(TYPE)(y + PIXEL(top + i, start + j), left) : (lanes){0};
        else
            SQUARE(i, j, N) {
                const int64_t small_y = top / 2 + i, small_x = start / 2 + j;
                lanes g = {0};
                words place = {0};
                if (SMALL_INSIDE(small_y, small_x)) {
                    g = LOAD(TYPE)(y + SMALL_PIXEL(small_y, small_x), left);
                    place = load_places(where + SMALL_PIXEL(small_y, small_x), left);
                }
                UNROLLED for (int k = 0; k < 4; k++) WINDOW(given, i, j, k) = only_at(place, k, g);
            }
        BOTH_WAYS(out_line_transposed, M, SIDE, given, v);
        TYPE *to = at_points + across * width + at;
        SQUARE(i, j, SIDE) STORE(TYPE)(to + (i * SIDE + j) * s.stride, v[i][j], room);
    }
}

int MINE(input)(maps s, const TYPE *x, TYPE *at_points) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++)
        EACH_ROW_OF_A_MAP MINE(input_row)(s, x + n * pixels, down, at_points + row * values, s.channels);
    return 0;
}

#define HALVED (s.height / 2 * (s.width / 2) * s.channels)

int MINE(output)(maps s, const TYPE *at_points, TYPE *y, uint8_t *where) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++)
        EACH_ROW_OF_A_MAP {
            const TYPE *from = at_points + row * values;
            if (where) MINE(output_row)(1, s, from, down, y + n * HALVED, where + n * HALVED, s.channels);
            else MINE(output_row)(0, s, from, down, y + n * pixels, 0, s.channels);
        }
    return 0;
}

int MINE(output_transposed)(maps s, const TYPE *y, TYPE *at_points, const uint8_t *where) {
    SIZES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.images; n++)
        EACH_ROW_OF_A_MAP {
            TYPE *to = at_points + row * values;
            if (where) MINE(output_transposed_row)(1, s, y + n * HALVED, where + n * HALVED, down, to, s.channels);
            else MINE(output_transposed_row)(0, s, y + n * pixels, 0, down, to, s.channels);
        }
    return 0;
}

/* The sums are float32, whatever TYPE is. */
int MINE(input_transposed)(maps s, const TYPE *at_points, TYPE *x) {
    SIZES;
    const int rounds = sizeof(TYPE) < sizeof(float);
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *own = rounds ? space(pixels) : 0;
        failed = rounds && !own;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < s.images; n++) {
            if (failed) continue;
            TYPE *to = x + n * pixels;
            float *sums = rounds ? own : (float *)to;
            memset(sums, 0, pixels * sizeof(float));
            EACH_ROW_OF_A_MAP MINE(input_transposed_row)(s, at_points + row * values, down, sums, s.channels);
            for (int64_t k = 0; rounds && k < pixels; k += LANES)
                STORE(TYPE)(to + k, load_float(sums + k, pixels - k), pixels - k);
        }
        free(own);
    }
    return failed;
}

#undef SQUARE
#undef SMALL_INSIDE
#undef SMALL_PIXEL
#undef WINDOW
#undef PIXEL
#undef EACH_TILE_OF_A_ROW
#undef EACH_ROW_OF_A_MAP
#undef SIZES
