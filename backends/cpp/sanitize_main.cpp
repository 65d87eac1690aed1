// Calls opwright_run once, on buffers of exactly their size, as standard input describes the call: counts, integers,
// reals, then (bytes, twin) and the bytes of every buffer. Says on standard error where they lie.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int32_t opwright_run(void *const *buffers, const int64_t *ints, const double *reals, int32_t threads);
extern "C" __attribute__((weak)) void opwright_watch(const void *p, int64_t bytes, const char *name);

static void take(void *to, size_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != bytes) { fprintf(stderr, "the call is cut short\n"); exit(3); }
}

int main() {
  int64_t counts[4];
  take(counts, sizeof counts);
  std::vector<int64_t> ints(counts[1] + 1);
  std::vector<double> reals(counts[2] + 1);
  take(ints.data(), 8 * counts[1]);
  take(reals.data(), 8 * counts[2]);
  std::vector<void *> buffers(counts[0] + 1);
  static char names[64][8];
  for (int64_t n = 0; n < counts[0]; n++) {
    int64_t about[2];
    take(about, sizeof about);
    void *p = nullptr;
    if (about[1] >= 0) p = buffers[about[1]];
    else if (posix_memalign(&p, 64, about[0] ? about[0] : 1)) return 3;
    take(p, about[0]);
    buffers[n] = p;
    fprintf(stderr, "opwright: buffer %ld at %p of %ld bytes\n", (long)n, p, (long)about[0]);
    snprintf(names[n % 64], sizeof names[0], "%ld", (long)n);
    if (opwright_watch && about[1] < 0) opwright_watch(p, about[0], names[n % 64]);
  }
  fflush(stderr);
  const int32_t status = opwright_run(buffers.data(), ints.data(), reals.data(), (int32_t)counts[3]);
  fprintf(stderr, "opwright: returned %d\n", status);
  return status ? 4 : 0;
}
