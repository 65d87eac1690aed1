#include <cmath>
#include <cstdint>

extern "C" void affine(const float *x, float *y, int64_t B, int64_t N, int64_t sx, int64_t sy, int64_t row, int64_t, int64_t) {
  float *own = const_cast<float *>(x);
  for (int64_t i = 0; i < N; i++) own[row * sx + i] = 2.0f * own[row * sx + i] + 1.0f;
  for (int64_t i = 0; i < N; i++) y[row * sy + i] = own[row * sx + i];
}
