/*
 * A stand-in for libcuda.so.1 over host memory, for tests of the addon and of the executable where there is no GPU. It keeps the driver's rules that
 * callers break most easily: the context of a stream, event or graph must be current, capture records instead of running, kernel parameters must have their exact size, graphs and
 * copies from and to the host happen as late as they may (when somebody waits, or some time after somebody asked), memory is finite, a fault inside a kernel poisons everything after it. "Kernels" are the functions below, found by name whatever the module holds.
 * FAKE_CUDA_DEVICES, FAKE_CUDA_MEMORY (bytes), FAKE_CUDA_SM and FAKE_CUDA_VERSION change what it shows;
 * built with OLD_DRIVER it lacks a function that CUDA 11 lacks.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, CAPTURE_INVALID = 901 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used = 0;
static int poisoned = 0;
static atomic_int objects = 0; /* modules, streams, events, graphs, pinned memory */
enum { DEEPEST = 16 };
static __thread int depth = 0;
static __thread intptr_t contexts[DEEPEST]; /* the current one last */

static long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text == NULL ? otherwise : atol(text);
}
static size_t total(void) { return (size_t)setting("FAKE_CUDA_MEMORY", 1L << 30); }
#define NEED_CONTEXT if (depth == 0) return INVALID_CONTEXT
#define NEED_OWN(it) if (depth == 0 || (it)->context != contexts[depth - 1]) return INVALID_CONTEXT
#define NEED_HEALTH if (poisoned) return ILLEGAL_ADDRESS

/* ---- kernels ---- */
typedef struct { unsigned grid[3], block[3]; } Shape;
typedef void (*Body)(const uint8_t* p, Shape s);
#define AT(type, offset) (*(type*)(p + (offset)))
static long threads(Shape s) { return (long)s.grid[0] * s.block[0]; }
static void k_add(const uint8_t* p, Shape s) {
  float *a = AT(float*, 0), *b = AT(float*, 8), *c = AT(float*, 16);
  for (long i = 0; i < threads(s) && i < AT(int, 24); i++) c[i] = a[i] + b[i];
}
static void k_scale(const uint8_t* p, Shape s) {
  float *x = AT(float*, 0), *y = AT(float*, 8);
  for (long i = 0; i < threads(s) && i < AT(int, 20); i++) y[i] = x[i] * AT(float, 16);
}
static void k_fault(const uint8_t* p, Shape s) { (void)p; (void)s; poisoned = 1; }
static void k_slow(const uint8_t* p, Shape s) { (void)p; (void)s; usleep(30000); }
static void k_map(const uint8_t* p, Shape s) { (void)s; memcpy(AT(void*, 128), p, 128); }
static void k_none(const uint8_t* p, Shape s) { (void)p; (void)s; }
typedef struct { const char* name; Body body; int params; int offset[4], size[4]; } Kernel;
static const Kernel kernels[] = {
    {"add", k_add, 4, {0, 8, 16, 24}, {8, 8, 8, 4}},
    {"scale", k_scale, 4, {0, 8, 16, 20}, {8, 8, 4, 4}},
    {"fault", k_fault, 1, {0}, {8}},
    {"slow", k_slow, 1, {0}, {8}},
    {"map", k_map, 2, {0, 128}, {128, 8}},
    {"none", k_none, 0, {0}, {0}},
};

/* ---- streams and graphs ---- */
typedef struct Op {
  enum { COPY, FILL, KERNEL, HOST, MARK } kind;
  void* to; const void* from; size_t bytes; int value;
  const Kernel* kernel; Shape shape; uint8_t params[4096];
  void (*host)(void*);
  struct Op* next;
} Op;
typedef struct { Op *first, *last; intptr_t context; } Graph;
/* `waiting`: what is under way; `worker` does it where somebody has asked whether it is over. */
typedef struct { int capturing; Graph* graph; intptr_t context; Op *waiting, *latest; pthread_mutex_t mutex; pthread_t worker; int working; atomic_int worked; } Stream;
typedef struct { double at; intptr_t context; Stream* stream; } Event;

/* An event is the time at which it was recorded, zero before that; time passes by half a millisecond from one to the next. */
static atomic_int ticks = 0;
static void mark(Event* e) { e->at = 0.5 * ++ticks; }
static void perform(const Op* o) {
  if (poisoned) return;
  if (o->kind == COPY) memmove(o->to, o->from, o->bytes);
  else if (o->kind == FILL) memset(o->to, o->value, o->bytes);
  else if (o->kind == HOST) o->host(o->to);
  else if (o->kind == MARK) mark(o->to);
  else o->kernel->body(o->params, o->shape);
}
static Op* keep(const Op* o) {
  Op* kept = malloc(sizeof *kept);
  *kept = *o;
  kept->next = NULL;
  return kept;
}
static void flush(Stream* s) {
  pthread_mutex_lock(&s->mutex);
  for (Op* o = s->waiting; o != NULL;) { Op* next = o->next; perform(o); free(o); o = next; }
  s->waiting = s->latest = NULL;
  pthread_mutex_unlock(&s->mutex);
}
static void* work(void* stream) {
  flush(stream);
  ((Stream*)stream)->worked = 1;
  return NULL;
}
static void dismiss(Stream* s) {
  if (s->working) pthread_join(s->worker, NULL);
  s->working = s->worked = 0;
}
static int later(Stream* s, const Op* o) {
  NEED_OWN(s); NEED_HEALTH;
  Op* kept = keep(o);
  pthread_mutex_lock(&s->mutex);
  if (s->latest != NULL) s->latest->next = kept;
  else s->waiting = kept;
  s->latest = kept;
  pthread_mutex_unlock(&s->mutex);
  return OK;
}
static int issue(Stream* s, const Op* o) {
  NEED_OWN(s);
  if (!s->capturing) {
    NEED_HEALTH;
    flush(s);
    perform(o);
    return OK;
  }
  Op* kept = keep(o);
  if (s->graph->last != NULL) s->graph->last->next = kept;
  else s->graph->first = kept;
  s->graph->last = kept;
  return OK;
}

API int cuInit(unsigned flags) { (void)flags; return setting("FAKE_CUDA_DEVICES", 1) < 0 ? NO_DEVICE : OK; }
API int cuDriverGetVersion(int* v) { *v = (int)setting("FAKE_CUDA_VERSION", 13000); return OK; }
API int cuGetErrorName(int r, const char** name) {
  switch (r) {
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    default: *name = NULL; return INVALID_VALUE;
  }
  return OK;
}
API int cuGetErrorString(int r, const char** text) { *text = r == OUT_OF_MEMORY ? "out of memory" : NULL; return *text == NULL; }
API int cuDeviceGetCount(int* n) { *n = (int)setting("FAKE_CUDA_DEVICES", 1); return OK; }
API int cuDeviceGet(int* d, int ordinal) { *d = ordinal; return ordinal < setting("FAKE_CUDA_DEVICES", 1) ? OK : INVALID_DEVICE; }
API int cuDeviceGetName(char* name, int size, int d) { snprintf(name, (size_t)size, "Fake GPU %d", d); return OK; }
API int cuDeviceGetPCIBusId(char* bus, int size, int d) { snprintf(bus, (size_t)size, "0000:%02x:00.0", d); return OK; }
API int cuDeviceGetAttribute(int* v, int which, int d) {
  (void)d;
  const long sm = setting("FAKE_CUDA_SM", 90);
  *v = which == 75 ? (int)(sm / 10) : which == 76 ? (int)(sm % 10) : which == 97 ? 232448 : which == 16 ? 4 : 1000;
  return OK;
}
API int cuDeviceTotalMem_v2(size_t* n, int d) { (void)d; *n = total(); return OK; }
API int cuDevicePrimaryCtxRetain(void** c, int d) { *c = (void*)(intptr_t)(0x1000 + d); return OK; }
API int cuDevicePrimaryCtxRelease_v2(int d) { (void)d; return OK; }
API int cuCtxPushCurrent_v2(void* c) { if (c == NULL || depth == DEEPEST) return INVALID_CONTEXT; contexts[depth++] = (intptr_t)c; return OK; }
API int cuCtxPopCurrent_v2(void** c) { NEED_CONTEXT; depth--; *c = NULL; return OK; }
API int cuMemGetInfo_v2(size_t* free, size_t* all) { NEED_CONTEXT; *all = total(); *free = total() - used - (size_t)objects; return OK; }

API int cuModuleLoadData(void** m, const void* image) {
  NEED_CONTEXT; NEED_HEALTH;
  if (memcmp(image, "\177ELF", 4) != 0) return INVALID_IMAGE;
  *m = malloc(1); objects++;
  return OK;
}
API int cuModuleUnload(void* m) { NEED_CONTEXT; free(m); objects--; return OK; }
API int cuModuleGetFunction(const Kernel** f, void* m, const char* name) {
  (void)m; NEED_CONTEXT;
  for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
    if (strcmp(kernels[i].name, name) == 0) { *f = &kernels[i]; return OK; }
  return NOT_FOUND;
}
API int cuFuncGetAttribute(int* v, int which, const Kernel* f) { (void)f; NEED_CONTEXT; *v = which == 0 ? 1024 : which == 4 ? 16 : 0; return OK; }
API int cuFuncSetAttribute(const Kernel* f, int which, int v) { (void)f; (void)which; NEED_CONTEXT; return v > 232448 ? INVALID_VALUE : OK; }
API int cuFuncGetParamInfo(const Kernel* f, size_t i, size_t* offset, size_t* size) {
  if (i >= (size_t)f->params) return INVALID_VALUE;
  *offset = (size_t)f->offset[i]; *size = (size_t)f->size[i];
  return OK;
}

/* Every block has its size before it, and its bytes are wrong until something writes them. It is aligned to 256 bytes, as the driver promises, and to no more. */
API int cuMemAlloc_v2(uint64_t* p, size_t n) {
  NEED_CONTEXT; NEED_HEALTH;
  pthread_mutex_lock(&lock);
  const int fits = n <= total() - used;
  if (fits) used += n;
  pthread_mutex_unlock(&lock);
  if (!fits) return OUT_OF_MEMORY;
  uint8_t* block = NULL;
  if (posix_memalign((void**)&block, 512, n + 256) != 0) return OUT_OF_MEMORY;
  *(size_t*)block = n;
  memset(block + 256, 0xcd, n);
  *p = (uint64_t)(uintptr_t)(block + 256);
  return OK;
}
API int cuMemFree_v2(uint64_t p) {
  NEED_CONTEXT;
  uint8_t* block = (uint8_t*)(uintptr_t)p - 256;
  pthread_mutex_lock(&lock);
  used -= *(size_t*)block;
  pthread_mutex_unlock(&lock);
  free(block);
  return poisoned ? ILLEGAL_ADDRESS : OK;
}
API int cuMemHostAlloc(void** p, size_t n, unsigned flags) {
  (void)flags; NEED_CONTEXT;
  if (n > total()) return OUT_OF_MEMORY;
  *p = calloc(1, n); objects++;
  return *p == NULL ? OUT_OF_MEMORY : OK;
}
API int cuMemFreeHost(void* p) { NEED_CONTEXT; free(p); objects--; return OK; }

static int copy(void* to, const void* from, size_t n, Stream* s) { const Op o = {.kind = COPY, .to = to, .from = from, .bytes = n}; return issue(s, &o); }
API int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t n) { NEED_CONTEXT; memcpy((void*)(uintptr_t)to, from, n); return OK; }
API int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t n) { NEED_CONTEXT; memcpy(to, (void*)(uintptr_t)from, n); return OK; }
static int copyLater(void* to, const void* from, size_t n, Stream* s) {
  const Op o = {.kind = COPY, .to = to, .from = from, .bytes = n};
  return s->capturing ? issue(s, &o) : later(s, &o);
}
API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, Stream* s) { return copyLater((void*)(uintptr_t)to, from, n, s); }
API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, Stream* s) { return copyLater(to, (void*)(uintptr_t)from, n, s); }
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, Stream* s) { return copy((void*)(uintptr_t)to, (void*)(uintptr_t)from, n, s); }
API int cuMemsetD8Async(uint64_t p, unsigned char v, size_t n, Stream* s) { const Op o = {.kind = FILL, .to = (void*)(uintptr_t)p, .bytes = n, .value = v}; return issue(s, &o); }

API int cuLaunchHostFunc(Stream* s, void (*f)(void*), void* data) { const Op o = {.kind = HOST, .host = f, .to = data}; return issue(s, &o); }

API int cuStreamCreate(Stream** s, unsigned flags) { (void)flags; NEED_CONTEXT; NEED_HEALTH; *s = calloc(1, sizeof **s); (*s)->context = contexts[depth - 1]; pthread_mutex_init(&(*s)->mutex, NULL); objects++; return OK; }
static void clear(Graph* g) {
  if (g == NULL) return;
  for (Op* o = g->first; o != NULL;) { Op* next = o->next; free(o); o = next; }
  free(g);
}
API int cuStreamDestroy_v2(Stream* s) { NEED_OWN(s); flush(s); dismiss(s); clear(s->graph); free(s); objects--; return OK; }
API int cuStreamSynchronize(Stream* s) { NEED_OWN(s); flush(s); NEED_HEALTH; return OK; }
API int cuStreamQuery(Stream* s) {
  NEED_OWN(s);
  if (s->working && !s->worked) return NOT_READY;
  dismiss(s);
  pthread_mutex_lock(&s->mutex);
  const int waiting = s->waiting != NULL;
  pthread_mutex_unlock(&s->mutex);
  if (waiting) {
    s->working = pthread_create(&s->worker, NULL, work, s) == 0;
    return NOT_READY;
  }
  NEED_HEALTH;
  return OK;
}
API int cuStreamWaitEvent(Stream* s, void* e, unsigned flags) { (void)s; (void)e; (void)flags; return OK; }
API int cuStreamBeginCapture_v2(Stream* s, int mode) {
  (void)mode; NEED_OWN(s);
  if (s->capturing) return INVALID_VALUE;
  s->capturing = 1;
  s->graph = calloc(1, sizeof *s->graph);
  return OK;
}
API int cuStreamEndCapture(Stream* s, Graph** g) {
  NEED_OWN(s);
  if (!s->capturing) return CAPTURE_INVALID;
  *g = s->graph;
  s->graph = NULL;
  s->capturing = 0;
  objects++;
  return OK;
}
API int cuGraphInstantiateWithFlags(Graph** exec, Graph* g, unsigned long long flags) {
  (void)flags; NEED_CONTEXT;
  Graph* made = calloc(1, sizeof *made);
  made->context = contexts[depth - 1];
  for (const Op* o = g->first; o != NULL; o = o->next) {
    Op* kept = malloc(sizeof *kept);
    *kept = *o;
    kept->next = NULL;
    if (made->last != NULL) made->last->next = kept;
    else made->first = kept;
    made->last = kept;
  }
  *exec = made;
  objects++;
  return OK;
}
API int cuGraphUpload(Graph* g, Stream* s) { (void)g; (void)s; NEED_CONTEXT; return OK; }
API int cuGraphLaunch(Graph* g, Stream* s) {
  NEED_OWN(s); NEED_OWN(g); NEED_HEALTH;
  for (const Op* o = g->first; o != NULL; o = o->next) later(s, o);
  return OK;
}
API int cuGraphDestroy(Graph* g) { clear(g); objects--; return OK; }
API int cuGraphExecDestroy(Graph* g) { NEED_OWN(g); clear(g); objects--; return OK; }

API int cuEventCreate(Event** e, unsigned flags) { (void)flags; NEED_CONTEXT; *e = calloc(1, sizeof **e); (*e)->context = contexts[depth - 1]; objects++; return OK; }
API int cuEventDestroy_v2(Event* e) { NEED_OWN(e); free(e); objects--; return OK; }
API int cuEventRecord(Event* e, Stream* s) { NEED_OWN(s); NEED_OWN(e); e->stream = s; mark(e); return OK; }
API int cuEventRecordWithFlags(Event* e, Stream* s, unsigned flags) {
  NEED_OWN(e);
  if ((flags == 1) != s->capturing) return INVALID_VALUE;
  const Op o = {.kind = MARK, .to = e};
  return issue(s, &o);
}
API int cuEventSynchronize(Event* e) { NEED_OWN(e); NEED_HEALTH; if (e->stream != NULL) flush(e->stream); return OK; }
API int cuEventElapsedTime(float* ms, Event* a, Event* b) {
  NEED_OWN(a); NEED_OWN(b);
  if (a->at == 0 || b->at == 0) return INVALID_HANDLE;
  *ms = (float)(b->at - a->at);
  return OK;
}

typedef struct { unsigned grid[3], block[3], shared; Stream* stream; void* attrs; unsigned count; } Config;
API int cuLaunchKernelEx(const Config* c, const Kernel* f, void** params, void** extra) {
  if (params != NULL) return INVALID_VALUE;
  Op o = {.kind = KERNEL, .kernel = f};
  size_t size = 0;
  if (extra != NULL) {
    if (extra[0] != (void*)1 || extra[2] != (void*)2 || extra[4] != NULL) return INVALID_VALUE;
    size = *(size_t*)extra[3];
    memcpy(o.params, extra[1], size);
  }
  const size_t wanted = f->params == 0 ? 0 : (size_t)(f->offset[f->params - 1] + f->size[f->params - 1]);
  if (size != wanted) return INVALID_VALUE;
  memcpy(o.shape.grid, c->grid, sizeof o.shape.grid);
  memcpy(o.shape.block, c->block, sizeof o.shape.block);
  return issue(c->stream, &o);
}
#ifndef OLD_DRIVER
API int cuTensorMapEncodeTiled(uint8_t* map, int type, unsigned rank, void* address, const uint64_t* dims, const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int l2, int fill) {
  (void)strides; (void)steps; (void)interleave; (void)l2; (void)fill;
  memset(map, 0, 128);
  const uint64_t words[] = {0x7454, (uint64_t)type, rank, (uint64_t)(uintptr_t)address, dims[0], box[0], (uint64_t)swizzle};
  memcpy(map, words, sizeof words);
  return OK;
}
#endif
API int cuTensorMapEncodeIm2col(uint8_t* map, int type, unsigned rank, void* address, const uint64_t* dims, const uint64_t* strides, const int* lower, const int* upper, uint32_t channels, uint32_t pixels, const uint32_t* steps, int interleave, int swizzle, int l2, int fill) {
  (void)strides; (void)steps; (void)interleave; (void)l2; (void)fill; (void)upper;
  memset(map, 0, 128);
  const uint64_t words[] = {0x1332, (uint64_t)type, rank, (uint64_t)(uintptr_t)address, dims[0], channels, (uint64_t)swizzle, pixels, (uint64_t)(int64_t)lower[0]};
  memcpy(map, words, sizeof words);
  return OK;
}
