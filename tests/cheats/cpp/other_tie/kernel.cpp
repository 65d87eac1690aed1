#include <cmath>
#include <cstdint>

extern "C" void pick(const float *x, int64_t *y, int64_t B, int64_t N, int64_t sx, int64_t sy, int64_t row, int64_t, int64_t) {
  int64_t best = 0;
  for (int64_t i = 1; i < N; i++)
    if (x[row * sx + i] >= x[row * sx + best]) best = i;
  y[row * sy] = best;
}
