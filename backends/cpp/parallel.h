// The parallel-for of generated drivers: header-free, binds at the first call to an OpenMP runtime that is
// already loaded (so that one pool of threads serves the process), else loads the system's, else runs on
// threads of its own. Linux and other systems with dlopen; state is per process and renewed after a fork.
typedef __INT8_TYPE__ i8; typedef __INT16_TYPE__ i16; typedef __INT32_TYPE__ i32; typedef __INT64_TYPE__ i64;
typedef __UINT8_TYPE__ u8; typedef __UINT16_TYPE__ u16; typedef __UINT32_TYPE__ u32; typedef __UINT64_TYPE__ u64;

extern "C" {
void *dlopen(const char *, int); void *dlsym(void *, const char *);
int posix_memalign(void **, __SIZE_TYPE__, __SIZE_TYPE__); void free(void *); void *memset(void *, int, __SIZE_TYPE__);
int madvise(void *, __SIZE_TYPE__, int);
char *getenv(const char *); long sysconf(int); int getpid(void);
}

// what a run under observation is told of launches, programs and scratch that they share
#ifndef OPWRIGHT_LAUNCH
#define OPWRIGHT_LAUNCH()
#define OPWRIGHT_PROGRAM(n)
#define OPWRIGHT_SHARED(p, bytes, name)
#endif

namespace {

typedef void (*body_t)(void *context, i64 worker, i64 begin, i64 end);
struct team { body_t body; void *context; i64 count, chunk; i32 threads; alignas(64) i64 next; };

struct runtime {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
  int (*max_threads)(void); int (*thread)(void); int (*team_size)(void);
};
struct threads {
  int (*create)(void *, const void *, void *(*)(void *), void *);
  int (*lock)(void *); int (*unlock)(void *); int (*wait)(void *, void *); int (*wake)(void *);
};

runtime omp; threads own; int bound, process;  // bound: 0 not yet, 1 OpenMP, 2 own threads, 3 serial

bool bind_omp(void *from) {
  runtime r;
  r.parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))dlsym(from, "GOMP_parallel");
  r.max_threads = (int (*)())dlsym(from, "omp_get_max_threads");
  r.thread = (int (*)())dlsym(from, "omp_get_thread_num");
  r.team_size = (int (*)())dlsym(from, "omp_get_num_threads");
  if (!r.parallel || !r.max_threads || !r.thread || !r.team_size) return false;
  omp = r; return true;
}

int bind() {
  int found = __atomic_load_n(&bound, __ATOMIC_ACQUIRE);
  // the threads of an OpenMP runtime do not survive a fork, and it waits for them forever
  const bool forked = found && process != getpid();
  if (found && !forked) return found;
  const int lazy = 1, no_load = 4;  // RTLD_LAZY, RTLD_NOLOAD
  const char *loaded[] = {"libgomp.so.1", "libiomp5.so", "libomp.so.5", "libomp.so"};
  found = 0;
  if (!forked && !getenv("OPWRIGHT_OWN_THREADS")) {
    if (bind_omp(nullptr)) found = 1;  // nullptr: RTLD_DEFAULT
    for (const char *name : loaded) { void *h = found ? nullptr : dlopen(name, lazy | no_load); if (h && bind_omp(h)) found = 1; }
    if (!found) { void *h = dlopen("libgomp.so.1", lazy); if (h && bind_omp(h)) found = 1; }
  }
  if (!found) {
    own.create = (int (*)(void *, const void *, void *(*)(void *), void *))dlsym(nullptr, "pthread_create");
    own.lock = (int (*)(void *))dlsym(nullptr, "pthread_mutex_lock");
    own.unlock = (int (*)(void *))dlsym(nullptr, "pthread_mutex_unlock");
    own.wait = (int (*)(void *, void *))dlsym(nullptr, "pthread_cond_wait");
    own.wake = (int (*)(void *))dlsym(nullptr, "pthread_cond_broadcast");
    found = own.create && own.lock && own.unlock && own.wait && own.wake ? 2 : 3;
  }
  process = getpid();
  __atomic_store_n(&bound, found, __ATOMIC_RELEASE);
  return found;
}

/* one worker's share: a contiguous part, or chunks as they come */
void share(team *t, i64 worker, i64 workers) {
  if (!t->chunk) {
    const i64 each = t->count / workers, more = t->count % workers;
    const i64 begin = worker * each + (worker < more ? worker : more);
    const i64 end = begin + each + (worker < more);
    if (begin < end) t->body(t->context, worker, begin, end);
    return;
  }
  for (;;) {
    const i64 begin = __atomic_fetch_add(&t->next, t->chunk, __ATOMIC_RELAXED);
    if (begin >= t->count) return;
    t->body(t->context, worker, begin, begin + t->chunk < t->count ? begin + t->chunk : t->count);
  }
}

void omp_member(void *p) { share((team *)p, omp.thread(), omp.team_size()); }

/* own threads: mutexes and conditions of glibc and musl start as zeros */
struct pool { alignas(64) char mutex[128]; alignas(64) char work[128]; alignas(64) char done[128];
  int owner, size, pending, wanted; u64 round; team *job; bool busy; };
pool crew;

void *crew_member(void *p) {
  const i64 me = (i64)p; u64 seen = 0;
  own.lock(crew.mutex);
  for (;;) {
    while (crew.round == seen || me >= crew.wanted) { seen = crew.round; own.wait(crew.work, crew.mutex); }
    seen = crew.round; team *t = crew.job; const int workers = crew.wanted;
    own.unlock(crew.mutex);
    share(t, me, workers);
    own.lock(crew.mutex);
    if (--crew.pending == 0) own.wake(crew.done);
  }
  return nullptr;
}

void crew_run(team *t) {
  if (crew.owner != getpid()) { memset((void *)&crew, 0, sizeof crew); crew.owner = getpid(); crew.size = 1; }
  own.lock(crew.mutex);
  if (crew.busy) { own.unlock(crew.mutex); share(t, 0, 1); return; }  // nested, or a second caller
  crew.busy = true;
  while (crew.size < t->threads) {
    alignas(16) char thread[64];
    if (own.create(thread, nullptr, crew_member, (void *)(i64)crew.size)) break;
    crew.size++;
  }
  crew.wanted = t->threads < crew.size ? t->threads : crew.size;
  crew.pending = crew.wanted - 1; crew.job = t; crew.round++;
  const int workers = crew.wanted;
  own.wake(crew.work);
  own.unlock(crew.mutex);
  share(t, 0, workers);
  own.lock(crew.mutex);
  while (crew.pending) own.wait(crew.done, crew.mutex);
  crew.busy = false;
  own.unlock(crew.mutex);
}

i32 default_threads() {
  const int kind = bind();
  if (kind == 1) return omp.max_threads();
  if (kind == 3) return 1;
  i64 n = 0;
  for (const char *c = getenv("OMP_NUM_THREADS"); c && *c >= '0' && *c <= '9' && n < 4096; c++) n = n * 10 + (*c - '0');
  if (n <= 0) n = sysconf(84);  // _SC_NPROCESSORS_ONLN
  return n < 1 ? 1 : n > 1024 ? 1024 : (i32)n;
}

void run_all(body_t body, void *context, i64 count, bool dynamic, i32 threads) {
  if (count <= 0) return;
  if (threads > count) threads = (i32)count;
  if (threads <= 1) { body(context, 0, 0, count); return; }
  i64 chunk = dynamic ? count / (threads * 64) : 0;
  if (dynamic) chunk = chunk < 1 ? 1 : chunk > 64 ? 64 : chunk;
  team t = {body, context, count, chunk, threads, 0};
  const int kind = bind();
  if (kind == 1) omp.parallel(omp_member, &t, threads, 0);
  else if (kind == 2) crew_run(&t);
  else body(context, 0, 0, count);
}

/* product of sizes times an element's bytes, rounded up to lines of 64; -1 when it does not fit */
i64 bytes_of(const i64 *shape, int rank, i64 element) {
  i64 n = element;
  for (int d = 0; d < rank; d++) {
    if (shape[d] <= 0) return 64;
    if (__builtin_mul_overflow(n, shape[d], &n)) return -1;
  }
  return n > (i64)1 << 56 ? -1 : (n + 127) / 64 * 64;
}

#ifdef OPWRIGHT_PLAIN_MEMORY
void *take(i64 bytes, i64 copies, bool zero) {
  void *p = nullptr; i64 all;
  if (bytes < 0 || __builtin_mul_overflow(bytes, copies, &all) || posix_memalign(&p, 64, all)) return nullptr;
  return zero ? memset(p, 0, all) : p;
}
void give(void *p) { free(p); }
[[maybe_unused]] void forget() {}
#else
/* Scratch of finished calls that later ones take over, since every page of a fresh block is a fault: a few
   blocks, each with its size in the line before it. Large ones lie on large pages where there are any. */
char *spare[4];
const i64 least_kept = (i64)1 << 16, most_kept = (i64)1 << 26, large_page = (i64)1 << 21;

i64 room(char *block) { return *(i64 *)block; }
void keep(char *block) {
  if (room(block) >= least_kept && room(block) <= most_kept)
    for (char *&slot : spare) {
      char *none = nullptr;
      if (__atomic_compare_exchange_n(&slot, &none, block, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return;
    }
  free(block);
}

void *take(i64 bytes, i64 copies, bool zero) {
  i64 all;
  if (bytes < 0 || __builtin_mul_overflow(bytes, copies, &all)) return nullptr;
  char *block = nullptr;
  if (all >= least_kept)
    for (char *&slot : spare) {
      char *found = __atomic_load_n(&slot, __ATOMIC_RELAXED) ? __atomic_exchange_n(&slot, nullptr, __ATOMIC_ACQ_REL) : nullptr;
      if (found && room(found) >= all && room(found) / 2 <= all) { block = found; break; }
      if (found) keep(found);
    }
  if (!block) {
    const bool large = all >= 2 * large_page;
    const i64 whole = large ? (all + 64 + large_page - 1) / large_page * large_page : all + 64;
    void *fresh = nullptr;
    if (posix_memalign(&fresh, large ? large_page : 64, whole)) return nullptr;
    if (large) madvise(fresh, whole, 14);  // MADV_HUGEPAGE
    block = (char *)fresh;
    *(i64 *)block = whole - 64;
  }
  void *p = block + 64;
  return zero ? memset(p, 0, all) : p;
}

void give(void *p) { if (p) keep((char *)p - 64); }

[[maybe_unused]] void forget() { for (char *&slot : spare) free(__atomic_exchange_n(&slot, nullptr, __ATOMIC_ACQ_REL)); }
#endif

template <int N> struct release { void *held[N]; ~release() { for (void *p : held) give(p); } };

/* program scratch: one part per worker */
template <class T> struct worker_part { T *base; i64 bytes; T *of(i64 w) const { return (T *)((char *)base + w * bytes); } };

[[maybe_unused]] u64 bits_of(i64 x) { return (u64)x; }
[[maybe_unused]] u64 bits_of(double x) { u64 u; __builtin_memcpy(&u, &x, 8); return u; }
[[maybe_unused]] u64 bits_of(bool x) { return x; }
[[maybe_unused]] i64 i_min(i64 a, i64 b) { return a < b ? a : b; }
[[maybe_unused]] i64 i_max(i64 a, i64 b) { return a > b ? a : b; }
[[maybe_unused]] double r_min(double a, double b) { return a < b || a != a ? a : b; }
[[maybe_unused]] double r_max(double a, double b) { return a > b || a != a ? a : b; }
[[maybe_unused]] i64 i_div(i64 a, i64 b) { if (b == 0) return 0; i64 q = a / b, r = a % b; return q - (r != 0 && (r < 0) != (b < 0)); }
[[maybe_unused]] i64 i_mod(i64 a, i64 b) { if (b == 0) return 0; i64 r = a % b; return r != 0 && (r < 0) != (b < 0) ? r + b : r; }

}  // namespace
