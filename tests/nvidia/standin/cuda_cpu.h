// Run CUDA C kernels on a CPU: blocks one after another, each CUDA thread a ucontext fiber.
//
// Covers: blockIdx/threadIdx/blockDim/gridDim, static and dynamic __shared__ memory, __syncthreads (with a check
// that all threads of the block meet at the same one), atomics, min/max, rounded float operations, bit counts.
// Shared memory is filled with 0xCD before each block, so a read of memory nobody wrote shows as a wrong answer.
// Does not cover: warp intrinsics, textures, vector types, half arithmetic, __shared__ inside templates, real
// parallelism (a race shows only where thread order matters). expf is the host's, not the GPU's.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct cuda_index { unsigned x, y, z; };

namespace emu {
extern cuda_index tidx, bidx;
extern dim3 bdim, gdim;
extern unsigned char* dyn;                       // dynamic shared memory of the running block
void barrier(int line);
// Returns nullptr, or the text of the error. order: 0 = threads and blocks ascending, 1 = descending, >1 = shuffled.
const char* launch(dim3 grid, dim3 block, size_t dynamic_bytes, int order, const std::function<void()>& kernel);
}  // namespace emu

#define threadIdx (emu::tidx)
#define blockIdx (emu::bidx)
#define blockDim (emu::bdim)
#define gridDim (emu::gdim)
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))
#define __syncthreads() emu::barrier(__LINE__)
#define __threadfence() ((void)0)

using std::max;
using std::min;
static inline float __fadd_rn(float a, float b) { return a + b; }  // compiled with -ffp-contract=off
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, sizeof u); return u; }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __ffsll(unsigned long long v) { return __builtin_ffsll((long long)v); }
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T atomicAdd(T* p, T v) { T old = *p; *p += v; return old; }
template <class T> static inline T atomicMax(T* p, T v) { T old = *p; *p = std::max(old, v); return old; }
template <class T> static inline T atomicMin(T* p, T v) { T old = *p; *p = std::min(old, v); return old; }
template <class T> static inline T atomicOr(T* p, T v) { T old = *p; *p |= v; return old; }
template <class T> static inline T atomicExch(T* p, T v) { T old = *p; *p = v; return old; }
template <class T> static inline T atomicCAS(T* p, T c, T v) { T old = *p; if (old == c) *p = v; return old; }
