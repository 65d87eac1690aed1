// What -fsanitize=thread calls at every access, without its runtime: programs of a launch run one after the other, and
// two of them must not touch a byte that one of them writes, atomics on both sides excepted. Deterministic.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {
struct mark { int64_t writer = -1, reader = -1; bool atomic_write = false, atomic_read = false, many = false; };
struct range { const char *base; int64_t bytes; const char *name; std::vector<mark> marks; };
std::vector<range> &ranges() { static std::vector<range> all; return all; }
int64_t program = -1;
int reported;

void report(const range &r, int64_t at, int64_t other, const char *what) {
  if (reported++ < 4)
    fprintf(stderr, "opwright: race: programs %ld and %ld %s byte %ld of %s\n", (long)other, (long)program, what,
            (long)at, r.name);
}

void touch(const void *p, int64_t size, bool writes, bool atomic) {
  if (program < 0) return;
  const char *from = (const char *)p;
  for (range &r : ranges()) {
    if (from + size <= r.base || from >= r.base + r.bytes) continue;
    for (int64_t i = 0; i < size; i++) {
      const int64_t at = from + i - r.base;
      if (at < 0 || at >= r.bytes) continue;
      mark &m = r.marks[at];
      if (m.writer >= 0 && m.writer != program && !(atomic && m.atomic_write))
        report(r, at, m.writer, writes ? "both write" : "write and read");
      if (writes && (m.many || (m.reader >= 0 && m.reader != program)) && !(atomic && m.atomic_read))
        report(r, at, m.reader, "read and write");
      if (writes) {
        m.atomic_write = atomic && (m.writer < 0 || m.atomic_write);
        m.writer = program;
      } else {
        m.atomic_read = atomic && (m.reader < 0 || m.atomic_read);
        m.many = m.many || (m.reader >= 0 && m.reader != program);
        m.reader = program;
      }
    }
    return;
  }
}
}  // namespace

extern "C" {
void opwright_watch(const void *p, int64_t bytes, const char *name) {
  if (bytes > 0) ranges().push_back({(const char *)p, bytes, name, std::vector<mark>(bytes)});
}
void opwright_launch() {
  program = -1;
  for (range &r : ranges()) r.marks.assign(r.bytes, mark());
}
void opwright_program(int64_t n) { program = n; }

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
#define ACCESS(n) \
  void __tsan_read##n(void *p) { touch(p, n, false, false); } \
  void __tsan_write##n(void *p) { touch(p, n, true, false); } \
  void __tsan_unaligned_read##n(void *p) { touch(p, n, false, false); } \
  void __tsan_unaligned_write##n(void *p) { touch(p, n, true, false); } \
  void __tsan_volatile_read##n(void *p) { touch(p, n, false, false); } \
  void __tsan_volatile_write##n(void *p) { touch(p, n, true, false); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
void __tsan_read_range(void *p, long n) { touch(p, n, false, false); }
void __tsan_write_range(void *p, long n) { touch(p, n, true, false); }
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}
#define ATOMIC(bits, T) \
  T __tsan_atomic##bits##_load(const volatile T *p, int) { touch((void *)p, bits / 8, false, true); return *p; } \
  void __tsan_atomic##bits##_store(volatile T *p, T v, int) { touch((void *)p, bits / 8, true, true); *p = v; } \
  T __tsan_atomic##bits##_exchange(volatile T *p, T v, int) { touch((void *)p, bits / 8, true, true); T o = *p; *p = v; return o; } \
  T __tsan_atomic##bits##_fetch_add(volatile T *p, T v, int) { touch((void *)p, bits / 8, true, true); T o = *p; *p = o + v; return o; } \
  T __tsan_atomic##bits##_fetch_sub(volatile T *p, T v, int) { touch((void *)p, bits / 8, true, true); T o = *p; *p = o - v; return o; } \
  T __tsan_atomic##bits##_fetch_and(volatile T *p, T v, int) { touch((void *)p, bits / 8, true, true); T o = *p; *p = o & v; return o; } \
  T __tsan_atomic##bits##_fetch_or(volatile T *p, T v, int) { touch((void *)p, bits / 8, true, true); T o = *p; *p = o | v; return o; } \
  T __tsan_atomic##bits##_fetch_xor(volatile T *p, T v, int) { touch((void *)p, bits / 8, true, true); T o = *p; *p = o ^ v; return o; } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *e, T v, int, int) { \
    touch((void *)p, bits / 8, true, true); if (*p == *e) { *p = v; return 1; } *e = *p; return 0; } \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T *p, T *e, T v, int a, int b) { \
    return __tsan_atomic##bits##_compare_exchange_strong(p, e, v, a, b); } \
  T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T e, T v, int, int) { \
    touch((void *)p, bits / 8, true, true); T o = *p; if (o == e) *p = v; return o; }
ATOMIC(8, int8_t) ATOMIC(16, int16_t) ATOMIC(32, int32_t) ATOMIC(64, int64_t)
// calls that stay calls are seen, too; written out, so that no compiler turns them into themselves
void *__wrap_memcpy(void *to, const void *from, unsigned long n) {
  touch(from, n, false, false); touch(to, n, true, false);
  for (volatile unsigned long i = 0; i < n; i = i + 1) ((volatile char *)to)[i] = ((const char *)from)[i];
  return to;
}
void *__wrap_memset(void *to, int v, unsigned long n) {
  touch(to, n, true, false);
  for (volatile unsigned long i = 0; i < n; i = i + 1) ((volatile char *)to)[i] = (char)v;
  return to;
}
}
