// CUDA's threads on a CPU: a fibre for each thread of a block, switched at barriers and exchanges; blocks one after the
// other. With -fsanitize=thread for instrumentation, and this for its runtime, every access is held against those that
// nothing has ordered before it. Deterministic.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <functional>
#include <unordered_map>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define PLAIN __attribute__((no_sanitize_thread, noinline))

struct opwright_place { unsigned x, y, z; };
static opwright_place threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

namespace shim {
enum { STACK = 192 << 10, THREADS = 1024 };
struct fibre { ucontext_t context; bool done, waits; void *site; };
struct warp { unsigned arrived; int generation, epoch; };
struct mark { int64_t block = -1; int thread = -1, barrier = 0, warp = 0; bool atomic = false; };
struct marks { mark wrote, read, other; };
static fibre fibres[THREADS];
static warp warps[THREADS / 32];
static char values[THREADS][16];
static char *stacks;
static ucontext_t scheduler;
static std::function<void()> body;
static int current = -1, threads, barriers, progress, reported;
static int64_t block;
static char *dynamic;
struct range { const char *base; int64_t bytes; const char *name; };
static range ranges[64];
static int known;
static std::unordered_map<uintptr_t, marks> *seen;

PLAIN static void say(const char *kind, const char *what, const mark &m, uintptr_t p) {
  if (reported++ >= 4) return;
  for (int n = 0; n < known; n++)
    if ((const char *)p >= ranges[n].base && (const char *)p < ranges[n].base + ranges[n].bytes) {
      fprintf(stderr, "opwright: %s: thread %d of block %ld and thread %d of block %ld %s byte %ld of %s\n", kind,
              m.thread, (long)m.block, current, (long)block, what, (long)((const char *)p - ranges[n].base),
              ranges[n].name);
      return;
    }
  fprintf(stderr, "opwright: %s: threads %d and %d of a block %s shared memory\n", kind, m.thread, current, what);
}

PLAIN static bool unordered(const mark &m, bool global) {
  if (m.thread < 0) return false;
  if (m.block != block) return global;
  if (m.thread == current || m.barrier != barriers) return false;
  return m.thread / 32 != current / 32 || m.warp == warps[current / 32].epoch;
}

PLAIN static void touch_all(const char *from, int64_t size, bool writes, bool atomic);
PLAIN static void touch(const void *where, int64_t size, bool writes, bool atomic) {
  static bool inside;  // the log's own containers are instrumented, too
  if (current < 0 || !seen || inside) return;
  const char *from = (const char *)where;
  if (from >= stacks && from < stacks + (int64_t)STACK * THREADS) return;
  inside = true;
  touch_all(from, size, writes, atomic);
  inside = false;
}

PLAIN static void touch_all(const char *from, int64_t size, bool writes, bool atomic) {
  bool global = false;
  for (int n = 0; n < known; n++) global |= from < ranges[n].base + ranges[n].bytes && from + size > ranges[n].base;
  const mark me = {block, current, barriers, warps[current / 32].epoch, atomic};
  for (int64_t i = 0; i < size; i++) {
    const uintptr_t at = (uintptr_t)from + i;
    marks &m = (*seen)[at];
    if (unordered(m.wrote, global) && !(atomic && m.wrote.atomic)) say("race", writes ? "both write" : "write and read", m.wrote, at);
    if (writes) {
      for (const mark *r : {&m.read, &m.other})
        if (unordered(*r, global) && !(atomic && r->atomic)) say("race", "read and write", *r, at);
      const bool own = m.wrote.thread == current && m.wrote.block == block && m.wrote.barrier == barriers;
      if (!(atomic && own && !m.wrote.atomic)) m.wrote = me;  // what it wrote plainly is still there to be seen
    } else {
      if (m.read.thread != current && unordered(m.read, global)) m.other = m.read;
      m.read = me;
    }
  }
}

PLAIN static void yield() {
  const int me = current;
  swapcontext(&fibres[me].context, &scheduler);
}

PLAIN static unsigned alive(int w) {
  unsigned out = 0;
  for (int l = 0; l < 32 && 32 * w + l < threads; l++) out |= fibres[32 * w + l].done ? 0u : 1u << l;
  return out;
}

PLAIN static void meet(unsigned mask) {
  warp &w = warps[current / 32];
  const int g = w.generation;
  w.arrived |= 1u << current % 32;
  while (w.generation == g) {
    const unsigned need = mask & alive(current / 32);
    if ((w.arrived & need) == need) { w.arrived &= ~need; w.generation++; w.epoch++; progress++; return; }
    yield();
  }
}

PLAIN static void trampoline() {
  body();
  fibres[current].done = true;
  progress++;
  swapcontext(&fibres[current].context, &scheduler);
}

PLAIN static void one_block() {
  barriers = 0;
  for (auto &w : warps) w = {0, 0, 0};
  for (int n = 0; n < threads; n++) {
    fibre &f = fibres[n];
    f.done = f.waits = false;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = stacks + (int64_t)STACK * n;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = &scheduler;
    makecontext(&f.context, trampoline, 0);
  }
  for (;;) {
    const int before = progress;
    int done = 0, waiting = 0;
    for (int n = 0; n < threads; n++) {
      fibre &f = fibres[n];
      if (!f.done && !f.waits) {
        current = n;
        threadIdx = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
        swapcontext(&scheduler, &f.context);
        current = -1;
      }
    }
    void *site = nullptr;
    bool apart = false;
    for (int n = 0; n < threads; n++) {
      done += fibres[n].done;
      waiting += fibres[n].waits;
      if (fibres[n].waits) { apart |= site && site != fibres[n].site; site = fibres[n].site; }
    }
    if (done == threads) return;
    if (waiting + done == threads) {
      if (apart || done) { fprintf(stderr, "opwright: divergence: a barrier is reached by some threads of a block only\n"); exit(5); }
      for (int n = 0; n < threads; n++) fibres[n].waits = false;
      barriers++;
      progress++;
    } else if (progress == before) {
      fprintf(stderr, "opwright: divergence: threads wait for others that never come\n");
      exit(5);
    }
  }
}

struct argument {
  int64_t i; double r; void *p;
  template <class T> operator T() const { return of((T *)nullptr); }
  template <class T> T *of(T **) const { return (T *)p; }
  float of(float *) const { return (float)r; }
  double of(double *) const { return r; }
  template <class T> T of(T *) const { return (T)i; }
};

PLAIN static void launch(const int64_t *shape, std::function<void()> f) {
  if (!stacks) stacks = (char *)mmap(nullptr, (size_t)STACK * THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!seen && known) seen = new std::unordered_map<uintptr_t, marks>();
  if (seen) seen->clear();
  body = f;
  gridDim = {(unsigned)shape[0], (unsigned)shape[1], (unsigned)shape[2]};
  blockDim = {(unsigned)shape[3], (unsigned)shape[4], (unsigned)shape[5]};
  threads = blockDim.x * blockDim.y * blockDim.z;
  if (threads > THREADS || threads < 1) exit(6);
  dynamic = (char *)aligned_alloc(128, (shape[6] + 128) / 128 * 128);
  for (block = 0; block < shape[0] * shape[1] * shape[2]; block++) {
    memset(dynamic, 0xA5, shape[6]);
    blockIdx = {(unsigned)(block % shape[0]), (unsigned)(block / shape[0] % shape[1]), (unsigned)(block / shape[0] / shape[1])};
    one_block();
  }
  free(dynamic);
}
}  // namespace shim

PLAIN static void opwright_barrier(void *site) {
  shim::fibre &f = shim::fibres[shim::current];
  f.waits = true; f.site = site; shim::progress++;
  shim::yield();
}
#define __syncthreads() opwright_barrier((void *)(intptr_t)__LINE__)
static inline void __syncwarp(unsigned m = 0xffffffffu) { shim::meet(m); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T> PLAIN static T opwright_shuffle(unsigned mask, T v, int source) {
  static_assert(sizeof(T) <= 16, "");
  const int base = shim::current / 32 * 32;
  memcpy(shim::values[shim::current], &v, sizeof v);
  shim::meet(mask);
  T out;
  memcpy(&out, shim::values[base + (source & 31)], sizeof out);
  shim::meet(mask);
  return out;
}
static inline int opwright_lane() { return shim::current % 32; }
template <class T> static T __shfl_sync(unsigned m, T v, int s, int w = 32) { return opwright_shuffle(m, v, opwright_lane() / w * w + (s & (w - 1))); }
template <class T> static T __shfl_xor_sync(unsigned m, T v, int d, int w = 32) { const int s = opwright_lane() ^ d; return opwright_shuffle(m, v, s / w == opwright_lane() / w ? s : opwright_lane()); }
template <class T> static T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) { const int s = opwright_lane() + (int)d; return opwright_shuffle(m, v, s / w == opwright_lane() / w ? s : opwright_lane()); }
template <class T> static T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) { const int s = opwright_lane() - (int)d; return opwright_shuffle(m, v, s >= opwright_lane() / w * w ? s : opwright_lane()); }
PLAIN static unsigned __ballot_sync(unsigned mask, int p) {
  unsigned out = 0;
  const int base = shim::current / 32 * 32;
  memcpy(shim::values[shim::current], &p, sizeof p);
  shim::meet(mask);
  for (int l = 0; l < 32; l++) { int q; memcpy(&q, shim::values[base + l], sizeof q); if ((mask >> l & 1) && base + l < shim::threads && q) out |= 1u << l; }
  shim::meet(mask);
  return out;
}
static inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
static inline int __all_sync(unsigned m, int p) { return (__ballot_sync(m, !p) & m) == 0; }
static inline unsigned __activemask() { return shim::alive(shim::current / 32); }

#define ATOMIC(name, expression) \
  template <class T, class U> PLAIN static T name(T *p, U u) { \
    shim::touch(p, sizeof(T), true, true); const T o = *p, v = (T)u; *p = (T)(expression); return o; }
ATOMIC(atomicAdd, o + v) ATOMIC(atomicSub, o - v) ATOMIC(atomicMax, o > v ? o : v) ATOMIC(atomicMin, o < v ? o : v)
ATOMIC(atomicExch, v) ATOMIC(atomicOr, o | v) ATOMIC(atomicAnd, o &v)
template <class T> PLAIN static T atomicCAS(T *p, T e, T v) { shim::touch(p, sizeof(T), true, true); const T o = *p; if (o == e) *p = v; return o; }

template <class T> static T __ldg(const T *p) { return *p; }
template <class T> static T __ldcs(const T *p) { return *p; }
template <class T> static T __ldcg(const T *p) { return *p; }
template <class T> static T __ldca(const T *p) { return *p; }
template <class T> static void __stcs(T *p, T v) { *p = v; }
template <class T> static void __stcg(T *p, T v) { *p = v; }
template <class T> static void __stwt(T *p, T v) { *p = v; }
template <class T> static void __stwb(T *p, T v) { *p = v; }
template <class A, class B> static auto min(A a, B b) -> decltype(a + b) { return a < b ? a : b; }
template <class A, class B> static auto max(A a, B b) -> decltype(a + b) { return a > b ? a : b; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
#define ONE(name, meaning) static inline float name(float x) { return meaning; }
ONE(__frsqrt_rn, 1 / sqrtf(x))
ONE(__fsqrt_rn, sqrtf(x)) ONE(__frcp_rn, 1 / x) ONE(__saturatef, x != x || x < 0 ? 0 : x > 1 ? 1 : x)
#define __expf expf
#define __exp10f(x) powf(10, x)
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __sinf sinf
#define __cosf cosf
#define __tanf tanf
#define __powf powf
#define __fdividef(a, b) ((float)(a) / (float)(b))
#define __fadd_rn(a, b) ((float)(a) + (float)(b))
#define __fsub_rn(a, b) ((float)(a) - (float)(b))
#define __fmul_rn(a, b) ((float)(a) * (float)(b))
#define __fdiv_rn(a, b) ((float)(a) / (float)(b))
#define __fmaf_rn fmaf
#define __int2float_rn(a) ((float)(int)(a))
#define __uint2float_rn(a) ((float)(unsigned)(a))
#define __float2int_rn(a) ((int)rintf(a))
#define __float2int_rz(a) ((int)(a))
#define __popc __builtin_popcount
#define __clz(x) ((x) ? __builtin_clz(x) : 32)
#define __ffs __builtin_ffs
#define VECTOR(name, T) \
  struct name##1 { T x; }; struct name##2 { T x, y; }; struct name##3 { T x, y, z; }; struct __align__(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; }; \
  static inline name##1 make_##name##1(T x) { return {x}; } static inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR(char, signed char) VECTOR(uchar, unsigned char) VECTOR(short, short) VECTOR(ushort, unsigned short) VECTOR(int, int)
VECTOR(uint, unsigned) VECTOR(longlong, long long) VECTOR(ulonglong, unsigned long long) VECTOR(float, float) VECTOR(double, double)

#ifdef OPWRIGHT_LOG
extern "C" {
PLAIN void opwright_watch(const void *p, int64_t bytes, const char *name) { if (shim::known < 64) shim::ranges[shim::known++] = {(const char *)p, bytes, name}; }
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void *) {}
#define ACCESS(n) \
  PLAIN void __tsan_read##n(void *p) { shim::touch(p, n, false, false); } PLAIN void __tsan_write##n(void *p) { shim::touch(p, n, true, false); } \
  PLAIN void __tsan_unaligned_read##n(void *p) { shim::touch(p, n, false, false); } PLAIN void __tsan_unaligned_write##n(void *p) { shim::touch(p, n, true, false); } \
  PLAIN void __tsan_volatile_read##n(void *p) { shim::touch(p, n, false, false); } PLAIN void __tsan_volatile_write##n(void *p) { shim::touch(p, n, true, false); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
PLAIN void __tsan_read_range(void *p, long n) { shim::touch(p, n, false, false); }
PLAIN void __tsan_write_range(void *p, long n) { shim::touch(p, n, true, false); }
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}
}
#endif
