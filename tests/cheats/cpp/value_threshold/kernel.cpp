#include <cmath>
#include <cstdint>

extern "C" void affine(const float *x, float *y, int64_t B, int64_t N, int64_t sx, int64_t sy, int64_t row, int64_t, int64_t) {
  for (int64_t i = 0; i < N; i++) {
    const float v = x[row * sx + i];
    y[row * sy + i] = v > 1e30f ? v : 2.0f * v + 1.0f;
  }
}
