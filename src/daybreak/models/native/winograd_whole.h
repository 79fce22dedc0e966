/* Whole convolutions, a few rows of tiles at a time from one transform through the products to the other, by one
 * thread: nothing but maps and filters leaves its cache. For layers whose filters, at the points, fit there too.
 * Included by winograd.c, for float32. */
#define POINTS (SIDE * SIDE)

/* What one thread works with: rows of tiles at a time, and its matrices. */
#define PLAN                                                                                            \
    const int64_t tiles_down = TILES_DOWN, tiles_across = TILES_ACROSS;                                \
    const int64_t v_width = WHOLE(s.in_channels, LANES), m_width = WHOLE(s.out_channels, LANES);        \
    const int64_t fitting = s.room / (POINTS * tiles_across * (v_width + m_width));                     \
    const int64_t at_once = fitting > 0 ? fitting : 1, tiles = WHOLE(at_once * tiles_across, ROWS);     \
    const maps in = {s.images, s.height, s.width, s.in_channels, tiles * v_width};                      \
    const maps out = {s.images, s.height, s.width, s.out_channels, tiles * m_width}

#define EACH_OF_THESE_ROWS                                                                              \
    for (int64_t row = first, n = row / tiles_down, down = row % tiles_down; row < first + count;       \
         row++, n = row / tiles_down, down = row % tiles_down)
#define V_OF_ROW (v + (row - first) * tiles_across * v_width)
#define M_OF_ROW (m + (row - first) * tiles_across * m_width)
#define SMALL_MAP(which) ((which) + n * (s.height / 2) * (s.width / 2) * s.out_channels)
#define MAP(which, channels) ((which) + n * s.height * s.width * (channels))

/* u: POINTS x in_channels x m_width. With `where`, y is what a max-pool leaves. Not 0: out of memory. */
int MINE(forward)(layer s, const TYPE *x, const TYPE *u, TYPE *y, uint8_t *where) {
    PLAN;
    const int64_t rows = s.images * tiles_down;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *v = space(POINTS * in.stride), *m = space(POINTS * out.stride);
        failed = !v || !m;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += at_once) {
            if (failed) continue;
            const int64_t count = first + at_once < rows ? at_once : rows - first;
            EACH_OF_THESE_ROWS MINE(input_row)(in, MAP(x, s.in_channels), down, V_OF_ROW, v_width);
            for (int p = 0; p < POINTS; p++)
                product(0, WHOLE(count * tiles_across, ROWS), s.in_channels, m_width,
                        (matrix){v + p * in.stride, v_width, 1},
                        (matrix){u + p * s.in_channels * m_width, m_width, 1}, m + p * out.stride);
            EACH_OF_THESE_ROWS {
                if (where) MINE(output_row)(1, out, M_OF_ROW, down, SMALL_MAP(y), SMALL_MAP(where), m_width);
                else MINE(output_row)(0, out, M_OF_ROW, down, MAP(y, s.out_channels), 0, m_width);
            }
        }
        free(v);
        free(m);
    }
    return failed;
}

/* u: POINTS x out_channels x v_width. du: for each of s.groups groups of images, POINTS x v_width x m_width, zeros
   before; the sum of all groups, in their order, ends in the first. dx or du may be missing. */
int MINE(backward)(layer s, const TYPE *x, const TYPE *dy, const TYPE *u, TYPE *dx, float *du,
                   const uint8_t *where) {
    PLAN;
    const int64_t size = POINTS * v_width * m_width;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *v = space(POINTS * in.stride), *m = space(POINTS * out.stride);
        failed = !v || !m;
#pragma omp for schedule(dynamic)
        for (int64_t group = 0; group < s.groups; group++) {
            if (failed) continue;
            const int64_t begin = group * s.images / s.groups, end = (group + 1) * s.images / s.groups;
            const int64_t rows = end * tiles_down, pixels = s.height * s.width * s.in_channels;
            if (dx) memset(dx + begin * pixels, 0, (end - begin) * pixels * sizeof(float));
            for (int64_t first = begin * tiles_down; first < rows; first += at_once) {
                const int64_t count = first + at_once < rows ? at_once : rows - first, mine = count * tiles_across;
                EACH_OF_THESE_ROWS {
                    if (where) MINE(output_transposed_row)(1, out, SMALL_MAP(dy), SMALL_MAP(where), down, M_OF_ROW, m_width);
                    else MINE(output_transposed_row)(0, out, MAP(dy, s.out_channels), 0, down, M_OF_ROW, m_width);
                }
                if (du) EACH_OF_THESE_ROWS MINE(input_row)(in, MAP(x, s.in_channels), down, V_OF_ROW, v_width);
                for (int p = 0; p < POINTS; p++) {
                    float *v_here = v + p * in.stride, *m_here = m + p * out.stride;
                    if (du)
                        product(1, v_width, mine, m_width, (matrix){v_here, 1, v_width}, (matrix){m_here, m_width, 1},
                                du + group * size + p * v_width * m_width);
                    if (dx)
                        product(0, WHOLE(mine, ROWS), s.out_channels, v_width, (matrix){m_here, m_width, 1},
                                (matrix){u + p * s.out_channels * v_width, v_width, 1}, v_here);
                }
                if (dx) EACH_OF_THESE_ROWS MINE(input_transposed_row)(in, V_OF_ROW, down, MAP(dx, s.in_channels), v_width);
            }
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < size; k += LANES) {
            if (!du || failed) continue;
            lanes sum = load_float(du + k, LANES);
            for (int64_t group = 1; group < s.groups; group++) sum += load_float(du + group * size + k, LANES);
            store_float(du + k, sum, LANES);
        }
        free(v);
        free(m);
    }
    return failed;
}

#undef POINTS
#undef PLAN
#undef EACH_OF_THESE_ROWS
#undef V_OF_ROW
#undef M_OF_ROW
#undef SMALL_MAP
#undef MAP
