/* A stand-in for libcuda.so.1 that lets the real pycuda run on a CPU.
 *
 * Device memory is host memory filled with 0xCD; a module is a host library made by cuda_cpu.py; streams are
 * synchronous. The context stack is per thread, as in CUDA: work in a thread that pushed no context fails with 201
 * (pycuda: LogicError ... invalid device context), the commonest pycuda bug. cuda_standin_live() counts everything
 * that is alive, so that "nothing is left" is a test.
 * Environment, read at each call:
 *     CUDA_STANDIN_NODEV=1          cuInit fails with 100
 *     CUDA_STANDIN_FAIL_ALLOC=N     the Nth allocation since it has this value and all later ones fail with 2 (all
 *                                   later ones because pycuda collects garbage and tries again)
 *     CUDA_STANDIN_FAIL_LAUNCH=N    the Nth launch since it has this value and everything after it fails with
 *                                   719, as when the GPU is lost
 *     CUDA_STANDIN_ORDER=K          runs the threads of a block in order K (see cuda_cpu.h)
 *     CUDA_STANDIN_DISCRETE=1       the GPU is not integrated: the host's memory is not its own
 * Not covered: real concurrency between streams, textures, graphs, peer access. Functions that pycuda's module wants
 * but this file lacks answer 801 (not supported); libcuda.py makes them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int R;                                   /* CUresult */
typedef uint64_t P;                              /* CUdeviceptr */
typedef void* H;                                 /* any handle */
#define API __attribute__((visibility("default")))

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
       INVALID_CONTEXT = 201, FILE_NOT_FOUND = 301, INVALID_HANDLE = 400, NOT_FOUND = 500, OUT_OF_RESOURCES = 701,
       LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };
#define MAX_CONTEXTS 64
static __thread H stack[MAX_CONTEXTS];
static __thread int depth;

enum { BYTES, STREAMS, EVENTS, MODULES, PRIMARY, KINDS };
#define DEPTH KINDS                              /* of the calling thread's context stack */
static long live[KINDS];
static void add(int kind, long n) { __sync_fetch_and_add(&live[kind], n); }
API void cuda_standin_live(long* counts) {
    for (int i = 0; i < KINDS; i++) counts[i] = live[i];
    counts[DEPTH] = depth;
}

/* What was asked for so far, whether or not it is alive. */
enum { ALLOCATIONS, WAITS, COPIES, LAUNCHES, CALLS };
static long calls[CALLS];
static void count(int call) { __sync_fetch_and_add(&calls[call], 1); }
API void cuda_standin_calls(long* counts) { for (int i = 0; i < CALLS; i++) counts[i] = calls[i]; }

/* The Nth event since the variable got this value; then and ever after, until it changes or goes. */
typedef struct { int seen, limit; } countdown;
static int reached(const char* variable, countdown* c) {
    const char* nth = getenv(variable);
    const int limit = nth ? atoi(nth) : 0;
    if (limit != c->limit) { c->seen = 0; c->limit = limit; }
    return limit && c->seen >= limit;
}
static int fails(const char* variable, countdown* c) {
    reached(variable, c);
    c->seen++;
    return reached(variable, c);
}
static countdown launches;
static int lost(void) { return reached("CUDA_STANDIN_FAIL_LAUNCH", &launches); }  /* sticky, as on a GPU */

static const size_t TOTAL = (size_t)4 << 30;     /* a 4 GB Nano */
#define NEED_CONTEXT do { if (!depth) return INVALID_CONTEXT; } while (0)

/* --- errors, device ------------------------------------------------------------------------------------------- */
API R cuGetErrorString(R e, const char** s) {
    switch (e) {
    case OK: *s = "no error"; break;
    case INVALID_VALUE: *s = "invalid argument"; break;
    case OUT_OF_MEMORY: *s = "out of memory"; break;
    case NO_DEVICE: *s = "no CUDA-capable device is detected"; break;
    case INVALID_DEVICE: *s = "invalid device ordinal"; break;
    case INVALID_IMAGE: *s = "device kernel image is invalid"; break;
    case INVALID_CONTEXT: *s = "invalid device context"; break;
    case FILE_NOT_FOUND: *s = "file not found"; break;
    case NOT_FOUND: *s = "named symbol not found"; break;
    case OUT_OF_RESOURCES: *s = "too many resources requested for launch"; break;
    case LAUNCH_FAILED: *s = "unspecified launch failure"; break;
    case NOT_SUPPORTED: *s = "operation not supported"; break;
    default: *s = "unknown error";
    }
    return OK;
}
API R cuInit(unsigned flags) { (void)flags; return getenv("CUDA_STANDIN_NODEV") ? NO_DEVICE : OK; }
API R cuDriverGetVersion(int* v) { *v = 10020; return OK; }
API R cuDeviceGetCount(int* n) { *n = 1; return OK; }
API R cuDeviceGet(int* d, int i) { *d = i; return i ? INVALID_DEVICE : OK; }
API R cuDeviceGetName(char* b, int n, int d) { (void)d; snprintf(b, n, "CPU emulated Tegra X1"); return OK; }
API R cuDeviceComputeCapability(int* a, int* b, int d) { (void)d; *a = 5; *b = 3; return OK; }
API R cuDeviceTotalMem_v2(size_t* s, int d) { (void)d; *s = TOTAL; return OK; }
API R cuDeviceGetAttribute(int* v, int a, int d) {
    (void)d;
    switch (a) {
    case 1: *v = 1024; break;                    /* threads a block */
    case 8: *v = 49152; break;                   /* shared memory a block */
    case 10: *v = 32; break;                     /* warp */
    case 18: *v = !getenv("CUDA_STANDIN_DISCRETE"); break;  /* integrated */
    case 39: *v = 2048; break;                   /* threads a multiprocessor */
    case 75: *v = 5; break;                      /* compute capability */
    case 76: *v = 3; break;
    default: *v = 1;                             /* one multiprocessor, integrated, can map host memory ... */
    }
    return OK;
}

/* --- contexts ------------------------------------------------------------------------------------------------- */
API R cuCtxPushCurrent_v2(H c) {
    if (depth == MAX_CONTEXTS) return INVALID_VALUE;
    stack[depth++] = c;
    return OK;
}
API R cuCtxPopCurrent_v2(H* c) {
    NEED_CONTEXT;
    depth--;
    if (c) *c = stack[depth];
    return OK;
}
API R cuCtxCreate_v2(H* c, unsigned flags, int d) { (void)flags; (void)d; *c = malloc(1); return cuCtxPushCurrent_v2(*c); }
API R cuCtxCreate_v4(H* c, void* p, unsigned flags, int d) { (void)p; return cuCtxCreate_v2(c, flags, d); }
API R cuCtxDetach(H c) { if (depth && stack[depth - 1] == c) depth--; return OK; }
API R cuCtxDestroy_v2(H c) { return cuCtxDetach(c); }
API R cuCtxAttach(H* c, unsigned flags) { (void)flags; NEED_CONTEXT; *c = stack[depth - 1]; return OK; }
API R cuCtxGetDevice(int* d) { NEED_CONTEXT; *d = 0; return OK; }
API R cuCtxGetCurrent(H* c) { *c = depth ? stack[depth - 1] : NULL; return OK; }
API R cuCtxSynchronize(void) { NEED_CONTEXT; count(WAITS); return OK; }
API R cuCtxGetApiVersion(H c, unsigned* v) { (void)c; *v = 3020; return OK; }
API R cuDevicePrimaryCtxRetain(H* c, int d) { static char primary; (void)d; *c = &primary; add(PRIMARY, 1); return OK; }
API R cuDevicePrimaryCtxRelease_v2(int d) { (void)d; add(PRIMARY, -1); return OK; }

/* --- memory: [raw pointer][size] sit just before the 256-byte aligned block ------------------------------------ */
static countdown allocations;
static void* allocate(size_t n) {
    count(ALLOCATIONS);
    if (fails("CUDA_STANDIN_FAIL_ALLOC", &allocations)) return NULL;
    if (n > TOTAL - live[BYTES]) return NULL;
    char* raw = aligned_alloc(256, ((n + 255) / 256 + 1) * 256);
    if (!raw) return NULL;
    char* block = raw + 256;
    ((size_t*)block)[-1] = n;
    ((size_t*)block)[-2] = (size_t)raw;
    memset(block, 0xCD, n);
    add(BYTES, (long)n);
    return block;
}
static R release(void* block) {
    add(BYTES, -(long)((size_t*)block)[-1]);
    free((void*)((size_t*)block)[-2]);
    return OK;
}
API R cuMemGetInfo_v2(size_t* f, size_t* t) { NEED_CONTEXT; *t = TOTAL; *f = TOTAL - live[BYTES]; return OK; }
API R cuMemAlloc_v2(P* p, size_t n) { NEED_CONTEXT; *p = (P)allocate(n); return *p ? OK : OUT_OF_MEMORY; }
API R cuMemFree_v2(P p) { NEED_CONTEXT; return p ? release((void*)p) : INVALID_VALUE; }
API R cuMemAllocManaged(P* p, size_t n, unsigned flags) { (void)flags; return cuMemAlloc_v2(p, n); }
API R cuMemHostAlloc(void** p, size_t n, unsigned flags) {
    (void)flags; NEED_CONTEXT; *p = allocate(n); return *p ? OK : OUT_OF_MEMORY; }
API R cuMemFreeHost(void* p) { NEED_CONTEXT; return p ? release(p) : INVALID_VALUE; }
API R cuMemHostGetDevicePointer_v2(P* d, void* h, unsigned flags) { (void)flags; NEED_CONTEXT; *d = (P)h; return OK; }
API R cuMemHostRegister_v2(void* p, size_t n, unsigned flags) { (void)p; (void)n; (void)flags; NEED_CONTEXT; return OK; }
API R cuMemHostUnregister(void* p) { (void)p; NEED_CONTEXT; return OK; }
static R copy(void* to, const void* from, size_t n) { NEED_CONTEXT; count(COPIES); memcpy(to, from, n); return OK; }
API R cuMemcpyHtoD_v2(P d, const void* s, size_t n) { return copy((void*)d, s, n); }
API R cuMemcpyDtoH_v2(void* d, P s, size_t n) { return copy(d, (void*)s, n); }
API R cuMemcpyDtoD_v2(P d, P s, size_t n) { return copy((void*)d, (void*)s, n); }
API R cuMemcpyHtoDAsync_v2(P d, const void* s, size_t n, H st) { (void)st; return copy((void*)d, s, n); }
API R cuMemcpyDtoHAsync_v2(void* d, P s, size_t n, H st) { (void)st; return copy(d, (void*)s, n); }
API R cuMemcpyDtoDAsync_v2(P d, P s, size_t n, H st) { (void)st; return copy((void*)d, (void*)s, n); }
API R cuMemsetD8_v2(P d, unsigned char c, size_t n) { NEED_CONTEXT; memset((void*)d, c, n); return OK; }
API R cuMemsetD8Async(P d, unsigned char c, size_t n, H s) { (void)s; return cuMemsetD8_v2(d, c, n); }
API R cuMemsetD32_v2(P d, unsigned c, size_t n) {
    NEED_CONTEXT; for (size_t i = 0; i < n; i++) ((unsigned*)d)[i] = c; return OK; }
API R cuMemsetD32Async(P d, unsigned c, size_t n, H s) { (void)s; return cuMemsetD32_v2(d, c, n); }

/* --- streams and events --------------------------------------------------------------------------------------- */
static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
API R cuStreamCreate(H* s, unsigned flags) { (void)flags; NEED_CONTEXT; *s = malloc(1); add(STREAMS, 1); return OK; }
API R cuStreamDestroy_v2(H s) { free(s); add(STREAMS, -1); return OK; }
API R cuStreamSynchronize(H s) { (void)s; NEED_CONTEXT; count(WAITS); return lost() ? LAUNCH_FAILED : OK; }
API R cuStreamQuery(H s) { (void)s; NEED_CONTEXT; return OK; }
API R cuStreamWaitEvent(H s, H e, unsigned flags) { (void)s; (void)e; (void)flags; NEED_CONTEXT; return OK; }
API R cuEventCreate(H* e, unsigned flags) { (void)flags; NEED_CONTEXT; *e = calloc(1, sizeof(double)); add(EVENTS, 1); return OK; }
API R cuEventDestroy_v2(H e) { free(e); add(EVENTS, -1); return OK; }
API R cuEventRecord(H e, H s) { (void)s; NEED_CONTEXT; *(double*)e = now_ms(); return OK; }
API R cuEventSynchronize(H e) { (void)e; count(WAITS); return lost() ? LAUNCH_FAILED : OK; }
API R cuEventQuery(H e) { (void)e; return OK; }
API R cuEventElapsedTime(float* ms, H a, H b) { *ms = *(double*)b - *(double*)a; return OK; }
API R cuEventElapsedTime_v2(float* ms, H a, H b) { return cuEventElapsedTime(ms, a, b); }

/* --- modules and launches: a function handle is the pair of entry points that cuda_cpu.py made ------------------- */
typedef const char* (*entry)(const unsigned*, const unsigned*, unsigned, int, void*);
typedef struct { entry pointers, packed; } kernel;

API R cuModuleLoad(H* m, const char* path) {
    NEED_CONTEXT;
    *m = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*m) fprintf(stderr, "cuModuleLoad: %s\n", dlerror());
    if (*m) add(MODULES, 1);
    return *m ? OK : INVALID_IMAGE;
}
API R cuModuleLoadData(H* m, const void* data) {            /* only from files here */
    (void)m; (void)data;
    return INVALID_IMAGE;
}
API R cuModuleLoadDataEx(H* m, const void* data, unsigned n, int* options, void** values) {
    (void)n; (void)options; (void)values; return cuModuleLoadData(m, data); }
API R cuModuleUnload(H m) { dlclose(m); add(MODULES, -1); return OK; }
API R cuModuleGetFunction(H* f, H m, const char* name) {
    char symbol[256];
    kernel* k = malloc(sizeof *k);
    snprintf(symbol, sizeof symbol, "%s__launch", name);
    k->pointers = (entry)dlsym(m, symbol);
    snprintf(symbol, sizeof symbol, "%s__packed", name);
    k->packed = (entry)dlsym(m, symbol);
    if (!k->packed) { free(k); return NOT_FOUND; }
    *f = k;
    return OK;
}
API R cuFuncSetBlockShape(H f, int x, int y, int z) { (void)f; (void)x; (void)y; (void)z; return OK; }
API R cuFuncGetAttribute(int* v, int a, H f) { (void)a; (void)f; *v = 0; return OK; }
API R cuFuncSetAttribute(H f, int a, int v) { (void)f; (void)a; (void)v; return OK; }
API R cuFuncSetCacheConfig(H f, int c) { (void)f; (void)c; return OK; }
API R cuFuncSetSharedMemConfig(H f, int c) { (void)f; (void)c; return OK; }
API R cuLaunchKernel(H f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                     unsigned shared, H stream, void** pointers, void** extra) {
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    const char* order = getenv("CUDA_STANDIN_ORDER");
    const char* text;
    void* packed = NULL;
    (void)stream;
    NEED_CONTEXT;
    count(LAUNCHES);
    if (fails("CUDA_STANDIN_FAIL_LAUNCH", &launches)) return LAUNCH_FAILED;
    if (bx * by * bz > 1024 || gx * gy * gz == 0) return INVALID_VALUE;
    if (shared > 49152) return OUT_OF_RESOURCES;
    for (int i = 0; extra && extra[i]; i += 2)              /* 1 = CU_LAUNCH_PARAM_BUFFER_POINTER */
        if ((size_t)extra[i] == 1) packed = extra[i + 1];
    text = pointers ? ((kernel*)f)->pointers(grid, block, shared, order ? atoi(order) : 0, pointers)
                    : ((kernel*)f)->packed(grid, block, shared, order ? atoi(order) : 0, packed);
    if (text) fprintf(stderr, "cuLaunchKernel: %s\n", text);
    return text ? LAUNCH_FAILED : OK;
}
