extern "C" __global__ void affine(const float *x, float *y, long long B, long long N, long long sx,
                                  long long sy) {

}
