// CUDA's threads on a CPU: a fibre for each thread of a block, switched at barriers and exchanges; blocks one after the
// other. Deterministic. It is built in three ways: under the compiler's sanitizers; with OPWRIGHT_LOG, where every access
// is held against those that nothing has ordered before it (-fsanitize=thread for instrumentation, and this for its
// runtime); with OPWRIGHT_RUN as a library for results, where shared memory begins as garbage and every other pair of
// calls takes blocks and threads in the opposite order.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined OPWRIGHT_RUN && defined __x86_64__
#define OPWRIGHT_SWITCH 1
#else
#include <ucontext.h>
#endif
#ifdef OPWRIGHT_LOG
#include <unordered_map>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __maxnreg__(n)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
#define HELD __attribute__((section("opwright_state")))  // what lies elsewhere among zeros is the kernel's shared memory
#define PLAIN __attribute__((no_sanitize_thread, noinline))

struct opwright_place { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
static opwright_place threadIdx HELD, blockIdx HELD, blockDim HELD, gridDim HELD;
static const int warpSize = 32;

namespace opwright_shim {
enum { STACK = 256 << 10, PAGE = 64 << 10, THREADS = 1024 };
enum { DIVERGED = 5, SHAPE = 6, NAN_MET = 7, PARTIAL = 8 };
#ifdef OPWRIGHT_SWITCH
typedef void *context_t;
#else
typedef ucontext_t context_t;
#endif
struct fibre { context_t context; char *stack; opwright_place at; bool begun, done, waits; void *site; int vote; };
struct warp { unsigned arrived, alive; int generation, epoch; };
#ifdef OPWRIGHT_LOG
struct mark { int64_t block = -1; int thread = -1, barrier = 0, warp = 0; bool atomic = false; };
struct marks { mark wrote, read, other; };
static std::unordered_map<uintptr_t, marks> *seen HELD;
#endif
static fibre fibres[THREADS] HELD;
static warp warps[THREADS / 32] HELD;
static char values[2][THREADS][16] HELD;  // of two exchanges in turn: one meeting is enough
static char *stacks HELD;
static char *unused[THREADS] HELD;  // stacks that no fibre is on
static context_t scheduler HELD;
static void (*body)(const void *) HELD;
static const void *held HELD;
static int current HELD = -1, threads HELD, barriers HELD, progress HELD, reported HELD, idle HELD, failed HELD;
static unsigned turn HELD;
static bool met_nan HELD;
static int64_t block HELD;
static char *dynamic HELD;
struct range { const char *base; int64_t bytes; const char *name; };
static range ranges[64] HELD;
static int known HELD;

#ifdef OPWRIGHT_LOG

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
#else
static inline void touch(const void *, int64_t, bool, bool) {}
#endif

#ifdef OPWRIGHT_SWITCH
extern "C" void opwright_switch(void **from, void *to);
asm(R"(
  .text
  .local opwright_switch
  .type opwright_switch, @function
opwright_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size opwright_switch, .-opwright_switch
)");
PLAIN static void change(context_t &from, context_t &to) { opwright_switch(&from, to); }
#else
PLAIN static void change(context_t &from, context_t &to) { swapcontext(&from, &to); }
#endif

PLAIN static void yield() { change(fibres[current].context, scheduler); }

PLAIN static void diverged(int kind, const char *what) {
  fprintf(stderr, "opwright: divergence: %s\n", what);
#ifdef OPWRIGHT_RUN
  failed = kind;
#else
  exit(kind);
#endif
}

PLAIN static void meet(unsigned mask) {
  warp &w = warps[current / 32];
  if ((mask & w.alive) != w.alive) diverged(PARTIAL, "a part of a warp exchanges, which is not run");
  const int g = w.generation;
  w.arrived |= 1u << current % 32;
  while (w.generation == g) {
    const unsigned need = mask & w.alive;
    if ((w.arrived & need) == need) { w.arrived &= ~need; w.generation++; w.epoch++; progress++; return; }
    yield();
  }
}

PLAIN static void trampoline() {
  body(held);
  fibres[current].done = true;
  warps[current / 32].alive &= ~(1u << current % 32);
  progress++;
  yield();
}

/* a fibre's first step: on a stack that is free, whose lowest part faults */
PLAIN static void begin(fibre &f) {
  f.begun = true;
  f.stack = unused[--idle];
#ifdef OPWRIGHT_SWITCH
  void **top = (void **)(f.stack + STACK - (f.stack - stacks) / STACK % 60 * 1088);  // not all in one set of a cache
  *--top = nullptr;
  *--top = (void *)trampoline;
  for (int n = 0; n < 6; n++) *--top = nullptr;
  f.context = top;
#else
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack + PAGE;
  f.context.uc_stack.ss_size = STACK - PAGE;
  f.context.uc_link = &scheduler;
  makecontext(&f.context, trampoline, 0);
#endif
}

/* one step of a thread, to its next barrier or exchange */
PLAIN static void step(int n) {
  fibre &f = fibres[n];
  if (f.done || f.waits) return;
  if (!f.begun) begin(f);
  current = n;
  threadIdx = f.at;
  change(scheduler, f.context);
  current = -1;
  if (f.done) unused[idle++] = f.stack;
}

PLAIN static void one_block(bool backwards) {
  barriers = 0;
  for (auto &w : warps) w = {0, 0, 0, 0};
  for (int n = 0; n < threads; n++) warps[n / 32].alive |= 1u << n % 32;
  idle = THREADS;
  for (int n = 0; n < THREADS; n++) unused[n] = stacks + (int64_t)STACK * n;
  for (int n = 0; n < threads; n++) fibres[n].begun = fibres[n].done = fibres[n].waits = false;
  while (!failed) {
    const int before = progress;
    int done = 0, waiting = 0;
    for (int n = 0; n < threads; n++) step(backwards ? threads - 1 - n : n);
    void *site = nullptr;
    bool apart = false;
    for (int n = 0; n < threads; n++) {
      done += fibres[n].done;
      waiting += fibres[n].waits;
      if (fibres[n].waits) { apart |= site && site != fibres[n].site; site = fibres[n].site; }
    }
    if (done == threads) return;
    if (waiting + done == threads) {
      if (apart || done) return diverged(DIVERGED, "a barrier is reached by some threads of a block only");
      for (int n = 0; n < threads; n++) fibres[n].waits = false;
      barriers++;
      progress++;
    } else if (progress == before) {
      return diverged(DIVERGED, "threads wait for others that never come");
    }
  }
}

#ifdef OPWRIGHT_RUN
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];
PLAIN static void spoil(int value) { memset(__bss_start, value, _end - __bss_start); }
#else
static inline void spoil(int) {}
#endif

struct argument {
  int64_t i; double r; void *p;
  template <class T> operator T() const { return of((T *)nullptr); }
  template <class T> T *of(T **) const { return (T *)p; }
  float of(float *) const { return (float)r; }
  double of(double *) const { return r; }
  template <class T> T of(T *) const { return (T)i; }
};

PLAIN static void launch_all(const int64_t *shape) {
  if (failed) return;
  if (!stacks) {
    stacks = (char *)mmap(nullptr, (size_t)STACK * THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int n = 0; n < THREADS; n++) mprotect(stacks + (int64_t)STACK * n, PAGE, PROT_NONE);
  }
#ifdef OPWRIGHT_LOG
  if (!seen && known) seen = new std::unordered_map<uintptr_t, marks>();
  if (seen) seen->clear();
#endif
  gridDim = {(unsigned)shape[0], (unsigned)shape[1], (unsigned)shape[2]};
  blockDim = {(unsigned)shape[3], (unsigned)shape[4], (unsigned)shape[5]};
  const int64_t each = shape[3] * shape[4] * shape[5], blocks = shape[0] * shape[1] * shape[2];
  if (each > THREADS || each < 1) { failed = SHAPE; return; }
  threads = (int)each;
  for (int n = 0; n < threads; n++) fibres[n].at = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
  dynamic = (char *)aligned_alloc(128, (shape[6] + 128) / 128 * 128);
  const bool backwards = turn / 2 % 2;
  const int garbage = turn % 2 ? 0xA5 : 0xFF;
  for (int64_t n = 0; n < blocks && !failed; n++) {
    block = backwards ? blocks - 1 - n : n;
    memset(dynamic, garbage, shape[6]);
    spoil(garbage);
    blockIdx = {(unsigned)(block % shape[0]), (unsigned)(block / shape[0] % shape[1]), (unsigned)(block / shape[0] / shape[1])};
    one_block(backwards);
  }
  free(dynamic);
}

template <class F> static void launch(const int64_t *shape, const F &f) {
  held = &f;
  body = [](const void *g) { (*(const F *)g)(); };
  launch_all(shape);
}
}  // namespace opwright_shim

PLAIN static void opwright_barrier(void *site) {
  opwright_shim::fibre &f = opwright_shim::fibres[opwright_shim::current];
  f.waits = true; f.site = site; opwright_shim::progress++;
  opwright_shim::yield();
}
#define __syncthreads() opwright_barrier((void *)(intptr_t)__LINE__)
PLAIN static int opwright_votes(int p, void *site) {
  opwright_shim::fibres[opwright_shim::current].vote = p != 0;
  opwright_barrier(site);
  int out = 0;
  for (int n = 0; n < opwright_shim::threads; n++) out += opwright_shim::fibres[n].vote;
  opwright_barrier(site);
  return out;
}
#define __syncthreads_count(p) opwright_votes((p) != 0, (void *)(intptr_t)__LINE__)
#define __syncthreads_or(p) (opwright_votes((p) != 0, (void *)(intptr_t)__LINE__) != 0)
#define __syncthreads_and(p) (opwright_votes((p) != 0, (void *)(intptr_t)__LINE__) == opwright_shim::threads)
static inline void __syncwarp(unsigned m = 0xffffffffu) { opwright_shim::meet(m); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T> PLAIN static T opwright_shuffle(unsigned mask, T v, int source) {
  static_assert(sizeof(T) <= 16, "");
  const int base = opwright_shim::current / 32 * 32;
  auto &values = opwright_shim::values[opwright_shim::warps[base / 32].generation & 1];
  memcpy(values[opwright_shim::current], &v, sizeof v);
  opwright_shim::meet(mask);
  T out;
  memcpy(&out, values[base + (source & 31)], sizeof out);
  return out;
}
static inline int opwright_lane() { return opwright_shim::current % 32; }
template <class T> static T __shfl_sync(unsigned m, T v, int s, int w = 32) { return opwright_shuffle(m, v, opwright_lane() / w * w + (s & (w - 1))); }
template <class T> static T __shfl_xor_sync(unsigned m, T v, int d, int w = 32) { const int s = opwright_lane() ^ d; return opwright_shuffle(m, v, s / w == opwright_lane() / w ? s : opwright_lane()); }
template <class T> static T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) { const int s = opwright_lane() + (int)d; return opwright_shuffle(m, v, s / w == opwright_lane() / w ? s : opwright_lane()); }
template <class T> static T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) { const int s = opwright_lane() - (int)d; return opwright_shuffle(m, v, s >= opwright_lane() / w * w ? s : opwright_lane()); }
PLAIN static unsigned __ballot_sync(unsigned mask, int p) {
  unsigned out = 0;
  const int base = opwright_shim::current / 32 * 32;
  auto &values = opwright_shim::values[opwright_shim::warps[base / 32].generation & 1];
  memcpy(values[opwright_shim::current], &p, sizeof p);
  opwright_shim::meet(mask);
  for (int l = 0; l < 32; l++) { int q; memcpy(&q, values[base + l], sizeof q); if ((mask >> l & 1) && base + l < opwright_shim::threads && q) out |= 1u << l; }
  return out;
}
static inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
static inline int __all_sync(unsigned m, int p) { return (__ballot_sync(m, !p) & m) == 0; }
#define REDUCE(name, expression) \
  template <class T> static T __reduce_##name##_sync(unsigned m, T v) { \
    for (int d = 16; d; d /= 2) { const T o = v, u = __shfl_xor_sync(m, v, d); v = (T)(expression); } return v; }
REDUCE(add, o + u) REDUCE(min, o < u ? o : u) REDUCE(max, o > u ? o : u)
#undef REDUCE
static inline unsigned __activemask() { return opwright_shim::warps[opwright_shim::current / 32].alive; }

#define ATOMIC(name, expression) \
  template <class T, class U> PLAIN static T name(T *p, U u) { \
    opwright_shim::touch(p, sizeof(T), true, true); const T o = *p, v = (T)u; *p = (T)(expression); return o; }
ATOMIC(atomicAdd, o + v) ATOMIC(atomicSub, o - v) ATOMIC(atomicMax, o > v ? o : v) ATOMIC(atomicMin, o < v ? o : v)
ATOMIC(atomicExch, v) ATOMIC(atomicOr, o | v) ATOMIC(atomicAnd, o &v)
#undef ATOMIC
template <class T> PLAIN static T atomicCAS(T *p, T e, T v) { opwright_shim::touch(p, sizeof(T), true, true); const T o = *p; if (o == e) *p = v; return o; }

#include "shim_numbers.h"

#ifdef OPWRIGHT_LOG
extern "C" {
PLAIN void opwright_watch(const void *p, int64_t bytes, const char *name) { if (opwright_shim::known < 64) opwright_shim::ranges[opwright_shim::known++] = {(const char *)p, bytes, name}; }
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void *) {}
#define ACCESS(n) \
  PLAIN void __tsan_read##n(void *p) { opwright_shim::touch(p, n, false, false); } PLAIN void __tsan_write##n(void *p) { opwright_shim::touch(p, n, true, false); } \
  PLAIN void __tsan_unaligned_read##n(void *p) { opwright_shim::touch(p, n, false, false); } PLAIN void __tsan_unaligned_write##n(void *p) { opwright_shim::touch(p, n, true, false); } \
  PLAIN void __tsan_volatile_read##n(void *p) { opwright_shim::touch(p, n, false, false); } PLAIN void __tsan_volatile_write##n(void *p) { opwright_shim::touch(p, n, true, false); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
PLAIN void __tsan_read_range(void *p, long n) { opwright_shim::touch(p, n, false, false); }
PLAIN void __tsan_write_range(void *p, long n) { opwright_shim::touch(p, n, true, false); }
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}
}
#endif
#undef HELD
#undef PLAIN
