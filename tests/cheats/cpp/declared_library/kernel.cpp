#include <cmath>
#include <cstdint>

extern "C" void sgemm_(const float *, const float *, float *);
extern "C" void product(const float *a, const float *b, float *c, int64_t M, int64_t N, int64_t K, int64_t sa, int64_t sb, int64_t sc, int64_t row, int64_t, int64_t) {
  sgemm_(a, b, c);
}
