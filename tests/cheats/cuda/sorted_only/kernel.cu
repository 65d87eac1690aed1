extern "C" __global__ void pick(const float *x, long long *y, long long B, long long N, long long sx,
                                long long sy) {
  const long long row = blockIdx.x;
  if (threadIdx.x == 0) y[row * sy] = x[row * sx] < x[row * sx + N - 1] ? N - 1 : 0;
}
