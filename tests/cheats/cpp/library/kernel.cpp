#include <cmath>
#include <cstdint>
#include <cblas.h>

extern "C" void product(const float *a, const float *b, float *c, int64_t M, int64_t N, int64_t K, int64_t sa, int64_t sb, int64_t sc, int64_t row, int64_t, int64_t) {
  cblas_sgemm(101, 111, 111, 1, N, K, 1.0f, a + row * sa, sa, b, sb, 0.0f, c + row * sc, sc);
}
