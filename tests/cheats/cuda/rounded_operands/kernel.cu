#include <cuda_bf16.h>
extern "C" __global__ void product(const float *a, const float *b, float *c, long long M, long long N, long long K,
                                   long long sa, long long sb, long long sc) {
  const long long row = blockIdx.x;
  for (long long j = threadIdx.x; j < N; j += blockDim.x) {
    float s = 0.0f;
    for (long long k = 0; k < K; k++)
      s += __bfloat162float(__float2bfloat16(a[row * sa + k])) * __bfloat162float(__float2bfloat16(b[k * sb + j]));
    c[row * sc + j] = s;
  }
}
