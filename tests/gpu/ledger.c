// Stands between a program and the NVIDIA driver and keeps books: what is alive, what was called. LD_PRELOAD it.
//
//     cc -shared -fPIC -O1 -o ledger.so ledger.c -ldl
//
// Exact whatever else runs on the GPU, which free memory is not. It sees who is linked with libcuda.so.1 (pycuda),
// not the CUDA runtime inside TensorRT and torch, which finds the driver's functions by another way.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

typedef int Status;  // CUresult
typedef void* Handle;
typedef unsigned long long Address;

enum { DEVICE_BLOCKS, HOST_BLOCKS, STREAMS, EVENTS, MODULES, CONTEXTS, KINDS };  // ledger.py has the names
enum { ALLOCATIONS, WAITS, BLOCKING_COPIES, QUEUED_COPIES, LAUNCHES, CALLS };
enum { OUT_OF_MEMORY = 2, NO_FUNCTION = 500 };

static long alive[KINDS], called[CALLS], fail_in;

void ledger_alive(long* counts) { for (int i = 0; i < KINDS; ++i) counts[i] = alive[i]; }
void ledger_calls(long* counts) { for (int i = 0; i < CALLS; ++i) counts[i] = called[i]; }
void ledger_fail_allocation(long nth) { fail_in = nth; }  // that one from now on and all later ones; 0: none

// pycuda asks once more after collecting garbage, so one failure alone would not show.
static int must_fail(void) {
    if (fail_in > 1) return --fail_in, 0;
    return fail_in == 1;
}

static void* real(const char* name) {
    static void* library;
    if (!library) library = dlopen("libcuda.so.1", RTLD_NOW);
    return library ? dlsym(library, name) : NULL;
}

#define FORWARD(name, types, arguments, noted)       \
    Status name types {                              \
        static Status(*function) types;              \
        if (!function) *(void**)&function = real(#name); \
        Status status = function ? function arguments : NO_FUNCTION; \
        if (!status) { noted; }                      \
        return status;                               \
    }
#define MADE(kind) __atomic_add_fetch(&alive[kind], 1, __ATOMIC_SEQ_CST)
#define GONE(kind) __atomic_sub_fetch(&alive[kind], 1, __ATOMIC_SEQ_CST)
#define NOTE(call) __atomic_add_fetch(&called[call], 1, __ATOMIC_SEQ_CST)

static Status allocate(const char* name, Address* address, Handle* host, size_t size, unsigned flags) {
    if (must_fail()) return OUT_OF_MEMORY;
    void* function = real(name);
    if (!function) return NO_FUNCTION;
    const Status status = host ? ((Status(*)(Handle*, size_t, unsigned))function)(host, size, flags)
                               : ((Status(*)(Address*, size_t))function)(address, size);
    NOTE(ALLOCATIONS);
    if (!status) MADE(host ? HOST_BLOCKS : DEVICE_BLOCKS);
    return status;
}
Status cuMemAlloc_v2(Address* address, size_t size) { return allocate("cuMemAlloc_v2", address, NULL, size, 0); }
Status cuMemHostAlloc(Handle* host, size_t size, unsigned flags) {
    return allocate("cuMemHostAlloc", NULL, host, size, flags);
}
FORWARD(cuMemFree_v2, (Address a), (a), GONE(DEVICE_BLOCKS))
FORWARD(cuMemFreeHost, (Handle h), (h), GONE(HOST_BLOCKS))
FORWARD(cuStreamCreate, (Handle* s, unsigned flags), (s, flags), MADE(STREAMS))
FORWARD(cuStreamDestroy_v2, (Handle s), (s), GONE(STREAMS))
FORWARD(cuEventCreate, (Handle* e, unsigned flags), (e, flags), MADE(EVENTS))
FORWARD(cuEventDestroy_v2, (Handle e), (e), GONE(EVENTS))
FORWARD(cuModuleLoad, (Handle* m, const char* path), (m, path), MADE(MODULES))
FORWARD(cuModuleUnload, (Handle m), (m), GONE(MODULES))
FORWARD(cuDevicePrimaryCtxRetain, (Handle* c, int device), (c, device), MADE(CONTEXTS))
FORWARD(cuDevicePrimaryCtxRelease_v2, (int device), (device), GONE(CONTEXTS))
FORWARD(cuEventSynchronize, (Handle e), (e), NOTE(WAITS))
FORWARD(cuStreamSynchronize, (Handle s), (s), NOTE(WAITS))
FORWARD(cuCtxSynchronize, (void), (), NOTE(WAITS))
FORWARD(cuMemcpyHtoD_v2, (Address to, const void* from, size_t n), (to, from, n), NOTE(BLOCKING_COPIES))
FORWARD(cuMemcpyDtoH_v2, (void* to, Address from, size_t n), (to, from, n), NOTE(BLOCKING_COPIES))
FORWARD(cuMemcpyHtoDAsync_v2, (Address to, const void* from, size_t n, Handle s), (to, from, n, s),
        NOTE(QUEUED_COPIES))
FORWARD(cuMemcpyDtoHAsync_v2, (void* to, Address from, size_t n, Handle s), (to, from, n, s), NOTE(QUEUED_COPIES))
FORWARD(cuLaunchKernel,
        (Handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
         Handle s, Handle* arguments, Handle* extra),
        (f, gx, gy, gz, bx, by, bz, shared, s, arguments, extra), NOTE(LAUNCHES))
