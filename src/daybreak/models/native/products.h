/* Products of matrices that lie in one core's caches: out = a b, or out += a b where `adds`.
 *
 * ROWS rows of up to three vectors are summed in registers. Rows of `b` and `out` are whole vectors, and a multiple of
 * ROWS of them can be written to `out`. */
#if LANES == 16
#define ROWS 8 /* 24 sums in 32 registers */
#else
#define ROWS 4 /* 12 in 16 */
#endif

/* A matrix by the distance from one row, and one column, to the next. */
typedef struct {
    const float *at;
    int64_t row, column;
} matrix;

INLINE void panel(const int vectors, const int adds, int64_t inner, matrix a, matrix b, float *out, int64_t out_row) {
    lanes sums[ROWS][3];
    UNROLLED for (int r = 0; r < ROWS; r++)
        UNROLLED for (int v = 0; v < vectors; v++)
            sums[r][v] = adds ? load_float(out + r * out_row + v * LANES, LANES) : (lanes){0};
    for (int64_t k = 0; k < inner; k++) {
        lanes line[3];
        UNROLLED for (int v = 0; v < vectors; v++) line[v] = load_float(b.at + k * b.row + v * LANES, LANES);
        UNROLLED for (int r = 0; r < ROWS; r++) {
            const float one = a.at[r * a.row + k * a.column];
            UNROLLED for (int v = 0; v < vectors; v++) sums[r][v] += one * line[v];
        }
    }
    UNROLLED for (int r = 0; r < ROWS; r++)
        UNROLLED for (int v = 0; v < vectors; v++) store_float(out + r * out_row + v * LANES, sums[r][v], LANES);
}

INLINE void product(const int adds, int64_t rows, int64_t inner, int64_t columns, matrix a, matrix b, float *out) {
    for (int64_t done = 0, step; done < columns; done += step * LANES) {
        const int64_t left = (columns - done) / LANES;
        step = left == 4 ? 2 : left < 3 ? left : 3;
        matrix mine = {b.at + done, b.row, 1};
        for (int64_t r = 0; r < rows; r += ROWS) {
            matrix those = {a.at + r * a.row, a.row, a.column};
            float *to = out + r * columns + done;
            if (step == 3) panel(3, adds, inner, those, mine, to, columns);
            else if (step == 2) panel(2, adds, inner, those, mine, to, columns);
            else panel(1, adds, inner, those, mine, to, columns);
        }
    }
}
