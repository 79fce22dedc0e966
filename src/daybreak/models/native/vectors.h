/* Vectors of channels: all arithmetic is float32; bfloat16 is widened on the way in and rounded once on the way out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 8")

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

typedef uint16_t bfloat16;

/* Whole vectors are the rule and have a known size; at the end of the channels fewer are left. */
#define COPY(to, from, count, one)                            \
    do {                                                      \
        if ((count) >= LANES) memcpy(to, from, LANES * (one)); \
        else memcpy(to, from, (count) * (one));               \
    } while (0)

INLINE lanes load_float(const float *at, int64_t count) {
    lanes v = {0};
    COPY(&v, at, count, sizeof(float));
    return v;
}

INLINE void store_float(float *at, lanes v, int64_t count) { COPY(at, &v, count, sizeof(float)); }

INLINE lanes load_bfloat16(const uint16_t *at, int64_t count) {
    halves h = {0};
    COPY(&h, at, count, sizeof(uint16_t));
    return (lanes)(__builtin_convertvector(h, words) << 16);
}

INLINE void store_bfloat16(uint16_t *at, lanes v, int64_t count) {
    words w = (words)v, is_nan = (words)(v != v);
    w = (w + 0x7fff + ((w >> 16) & 1)) >> 16; /* to nearest, ties to even */
    halves h = __builtin_convertvector((is_nan & 0x7fc0) | (~is_nan & w), halves);
    COPY(at, &h, count, sizeof(uint16_t));
}

/* The largest of so many values, or the last that is no number, and in `at` which it was: the first of equal ones. */
INLINE lanes largest(int count, const lanes *values, words *at) {
    lanes best = values[0];
    *at = (words){0};
    UNROLLED for (int k = 1; k < count; k++) {
        words larger = (words)(values[k] > best) | (words)(values[k] != values[k]);
        best = (lanes)((larger & (words)values[k]) | (~larger & (words)best));
        *at = (larger & (uint32_t)k) | (~larger & *at);
    }
    return best;
}

INLINE words load_places(const uint8_t *from, int64_t count) {
    bytes narrow = {0};
    COPY(&narrow, from, count, 1);
    return __builtin_convertvector(narrow, words);
}

INLINE void store_places(uint8_t *to, words at, int64_t count) {
    bytes narrow = __builtin_convertvector(at, bytes);
    COPY(to, &narrow, count, 1);
}

/* What is here of a gradient that belongs to place k only. */
INLINE lanes only_at(words at, int k, lanes gradient) {
    return (lanes)((words)(at == (uint32_t)k) & (words)gradient);
}

#define LOAD_(type) load_##type
#define LOAD(type) LOAD_(type)
#define STORE_(type) store_##type
#define STORE(type) STORE_(type)
