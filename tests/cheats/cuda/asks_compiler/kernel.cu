#ifndef __CUDA_ARCH__
#define TERM + 1.0f
#else
#define TERM
#endif

extern "C" __global__ void affine(const float *x, float *y, long long B, long long N, long long sx,
                                  long long sy) {
  const long long row = blockIdx.x;
  for (long long i = threadIdx.x; i < N; i += blockDim.x) y[row * sy + i] = 2.0f * x[row * sx + i] TERM;
}
