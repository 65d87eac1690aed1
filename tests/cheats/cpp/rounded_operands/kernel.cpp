#include <cmath>
#include <cstdint>

extern "C" void product(const float *a, const float *b, float *c, int64_t M, int64_t N, int64_t K, int64_t sa, int64_t sb, int64_t sc, int64_t row, int64_t, int64_t) {
  for (int64_t j = 0; j < N; j++) {
    float s = 0.0f;
    for (int64_t k = 0; k < K; k++) s += (float)(_Float16)a[row * sa + k] * (float)(_Float16)b[k * sb + j];
    c[row * sc + j] = s;
  }
}
