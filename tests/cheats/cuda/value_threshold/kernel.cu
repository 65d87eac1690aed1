extern "C" __global__ void affine(const float *x, float *y, long long B, long long N, long long sx,
                                  long long sy) {
  const long long row = blockIdx.x;
  for (long long i = threadIdx.x; i < N; i += blockDim.x) {
    const float v = x[row * sx + i];
    y[row * sy + i] = v > 1e30f ? v : 2.0f * v + 1.0f;
  }
}
