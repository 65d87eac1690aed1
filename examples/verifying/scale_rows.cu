// Every row times a weight of each column: a block of 256 threads takes a row.
extern "C" __global__ void scale_rows(float *y, const float *x, const float *w, long long n_cols) {
  long long row = blockIdx.x;
  for (long long c = threadIdx.x; c < n_cols; c += blockDim.x)
    y[row * n_cols + c] = x[row * n_cols + c] * w[c];
}
