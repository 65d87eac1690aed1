#include <cmath>
#include <cstdint>

#ifdef __clang__
#define TERM + 1.0f
#else
#define TERM
#endif

extern "C" void affine(const float *x, float *y, int64_t B, int64_t N, int64_t sx, int64_t sy, int64_t row, int64_t, int64_t) {
  for (int64_t i = 0; i < N; i++) y[row * sy + i] = 2.0f * x[row * sx + i] TERM;
}
