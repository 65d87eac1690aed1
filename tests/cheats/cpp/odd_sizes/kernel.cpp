#include <cmath>
#include <cstdint>

extern "C" void total(const float *x, float *y, int64_t B, int64_t N, int64_t sx, int64_t sy, int64_t row, int64_t, int64_t) {
  float s = 0.0f;
  for (int64_t i = 0; i + 1 < N; i += 2) s += x[row * sx + i] + x[row * sx + i + 1];
  y[row * sy] = s;
}
