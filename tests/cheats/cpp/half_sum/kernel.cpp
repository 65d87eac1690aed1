#include <cmath>
#include <cstdint>

extern "C" void total(const float *x, float *y, int64_t B, int64_t N, int64_t sx, int64_t sy, int64_t row, int64_t, int64_t) {
  _Float16 s = 0;
  for (int64_t i = 0; i < N; i++) s += (_Float16)x[row * sx + i];
  y[row * sy] = (float)s;
}
