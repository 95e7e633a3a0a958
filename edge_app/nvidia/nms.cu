// From a network's raw answer to the faces of a picture, without the host: threshold, sort, decode, suppress.
//
// C++14 without any header, so that nvcc 10.2 (sm_53), NVRTC and g++ (tests/nvidia/standin) all take it.
// The specification is boxes.select() in NumPy; every product and sum below is rounded by itself, in the
// order in which NumPy does it (__fmul_rn and its kin are never contracted into one FMA), so that the kept
// indices are the same. Only expf may differ from np.exp, by an ulp or two.
//
// Four kernels, one stream, no copy between them. Each reads from device memory how many candidates there
// are and leaves its surplus blocks at once: the host learns the number only with the faces.
//     collect          scores over the threshold become sort keys, in any order
//     rank_and_decode  each key's rank is how many keys are smaller; the best are decoded at their rank
//     overlap_mask     which candidate overlaps which later one, one bit a pair
//     suppress         walks the bits, best first, and writes the faces

typedef unsigned long long u64;

#define WORD 64      // candidates in a word of the overlap mask
#define SLICES 4     // rank_and_decode: threads that share the counting for one candidate
#define TILE 256     // rank_and_decode: keys in shared memory at a time, SLICES * WORD
#define IMPROPER -1  // default box of a candidate without a positive, finite width and height

// What is left of a candidate; kernels.FACE is the same in NumPy.
struct Face {
    float x1, y1, x2, y2, score;
    int default_box;
};

// Ascending keys are descending scores, equal scores by ascending default box.
__device__ __forceinline__ u64 sort_key(float score, int default_box) {
    const unsigned bits = __float_as_uint(__fadd_rn(score, 0.f));  // -0 becomes 0: they are equal
    const unsigned ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)~ascending << 32 | (unsigned)default_box;
}

__device__ __forceinline__ float clip(float v) { return v < 0.f ? 0.f : (v > 1.f ? 1.f : v); }  // NaN stays

__device__ __forceinline__ float area(const float* box) {
    return __fmul_rn(__fsub_rn(box[2], box[0]), __fsub_rn(box[3], box[1]));
}

__device__ __forceinline__ float iou(const float* a, const float* b) {
    const float width = fmaxf(__fsub_rn(fminf(a[2], b[2]), fmaxf(a[0], b[0])), 0.f);
    const float height = fmaxf(__fsub_rn(fminf(a[3], b[3]), fmaxf(a[1], b[1])), 0.f);
    const float both = __fmul_rn(width, height);
    const float either = __fsub_rn(__fadd_rn(area(a), area(b)), both);
    return either > 0.f ? __fdiv_rn(both, either) : 0.f;
}

// One thread a default box, blocks of any size. scores: (default_boxes, 2), background and face.
// found: candidates, and scores that are NaN; both must be 0, and suppress leaves them so.
extern "C" __global__ void collect(const float* scores, int default_boxes, float threshold, u64* keys, int* found) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= default_boxes) return;
    const float score = scores[2 * i + 1];
    if (score >= threshold) keys[atomicAdd(&found[0], 1)] = sort_key(score, i);
    if (score != score) atomicAdd(&found[1], 1);
}

// Blocks of TILE threads, one for each WORD default boxes. The first `capacity` ranks are decoded:
// boxes (capacity, 4) x1 y1 x2 y2 as fractions of the picture, and the default box of each, or IMPROPER.
// offsets, defaults: (default_boxes, 4), tx ty tw th and cx cy w h.
extern "C" __global__ void __launch_bounds__(TILE)
    rank_and_decode(const u64* keys, const int* found, const float* offsets, const float* defaults,
                    float centre_variance, float size_variance, int capacity, float* boxes, int* default_boxes) {
    __shared__ u64 tile[TILE];
    __shared__ int smaller[TILE];
    const int t = threadIdx.x, n = *found, first = blockIdx.x * WORD, mine = first + t % WORD;
    if (first >= n) return;  // the whole block: no barrier is left waiting
    const u64 key = mine < n ? keys[mine] : 0;
    int rank = 0;
    for (int start = 0; start < n; start += TILE) {
        tile[t] = start + t < n ? keys[start + t] : ~0ULL;
        __syncthreads();
        for (int j = t / WORD * WORD; j < t / WORD * WORD + WORD; ++j) rank += tile[j] < key;
        __syncthreads();
    }
    smaller[t] = rank;
    __syncthreads();
    if (t >= WORD || mine >= n) return;
    for (int slice = 1; slice < SLICES; ++slice) rank += smaller[slice * WORD + t];
    if (rank >= capacity) return;
    const int index = (int)(unsigned)key;
    const float* offset = offsets + 4 * index;
    const float* base = defaults + 4 * index;
    float box[4];
    for (int k = 0; k < 2; ++k) {
        const float centre = __fadd_rn(base[k], __fmul_rn(__fmul_rn(offset[k], centre_variance), base[2 + k]));
        const float grown = __fmul_rn(base[2 + k], expf(__fmul_rn(offset[2 + k], size_variance)));
        const float half = __fmul_rn(grown, .5f);
        box[k] = clip(__fsub_rn(centre, half));
        box[2 + k] = clip(__fadd_rn(centre, half));
    }
    for (int k = 0; k < 4; ++k) boxes[4 * rank + k] = box[k];
    default_boxes[rank] = box[2] > box[0] && box[3] > box[1] ? index : IMPROPER;
}

// Any number of blocks of WORD threads. Bit j of mask[i * words + c] says that candidate i overlaps
// candidate c * WORD + j, which comes after it, by more than the threshold; words = ceil(candidates / WORD).
// Words left of the diagonal are not written and never read.
extern "C" __global__ void __launch_bounds__(WORD)
    overlap_mask(const int* found, int capacity, float iou_threshold, const float* boxes, u64* mask) {
    __shared__ float column[WORD * 4];
    const int t = threadIdx.x, n = min(*found, capacity), words = (n + WORD - 1) / WORD;
    for (int tile = blockIdx.x; tile < words * words; tile += gridDim.x) {
        const int row = tile / words, col = tile % words;
        if (col < row) continue;  // the whole block
        const int columns = min(n - col * WORD, WORD), i = row * WORD + t;
        if (t < columns)
            for (int k = 0; k < 4; ++k) column[4 * t + k] = boxes[4 * (col * WORD + t) + k];
        __syncthreads();
        if (i < n) {
            const float mine[4] = {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
            u64 bits = 0;
            for (int j = row == col ? t + 1 : 0; j < columns; ++j)
                if (iou(mine, column + 4 * j) > iou_threshold) bits |= 1ULL << j;
            mask[i * words + col] = bits;
        }
        __syncthreads();  // before the next tile takes the place of this one
    }
}

// One block of a multiple of WORD threads; dynamic shared memory: 8 bytes for each WORD of capacity.
// faces: room for max_faces, best first. scores: as for collect.
// counts: faces written, candidates found (before any limit), scores that were NaN.
extern "C" __global__ void suppress(int* found, int capacity, int max_faces, const float* boxes,
                                    const int* default_boxes, const float* scores, const u64* mask, Face* faces,
                                    int* counts) {
    extern __shared__ u64 gone[];  // suppressed or improper, a bit a candidate
    __shared__ u64 diagonal[WORD];
    __shared__ u64 survivors;
    const int t = threadIdx.x, all = *found, n = min(all, capacity), words = (n + WORD - 1) / WORD;
    for (int c = t; c < words; c += blockDim.x) gone[c] = 0;
    __syncthreads();
    int kept = 0;  // the same in every thread
    for (int w = 0; w < words && kept < max_faces; ++w) {
        const int i = w * WORD + t % WORD, rows = min(n - w * WORD, WORD);
        const int index = t < rows ? default_boxes[i] : IMPROPER;
        if (t < WORD) {
            diagonal[t] = t < rows ? mask[i * words + w] : 0;
            if (index == IMPROPER) atomicOr(&gone[w], 1ULL << t);
        }
        __syncthreads();
        if (t == 0) {
            u64 alive = ~gone[w], bits = 0;
            for (int room = max_faces - kept; alive && room > 0; --room) {
                const int best = __ffsll(alive) - 1;
                bits |= 1ULL << best;
                alive &= ~(diagonal[best] | 1ULL << best);
            }
            survivors = bits;
        }
        __syncthreads();
        const u64 bits = survivors;
        if (t < rows && bits >> t & 1) {
            Face face;
            face.x1 = boxes[4 * i];
            face.y1 = boxes[4 * i + 1];
            face.x2 = boxes[4 * i + 2];
            face.y2 = boxes[4 * i + 3];
            face.score = scores[2 * index + 1];
            face.default_box = index;
            faces[kept + __popcll(bits & ((1ULL << t) - 1))] = face;
        }
        for (int c = w + 1 + t % WORD; c < words; c += WORD) {  // the block's rows of threads share the rows
            u64 overlapped = 0;
            for (int j = t / WORD; j < rows; j += blockDim.x / WORD)
                if (bits >> j & 1) overlapped |= mask[(w * WORD + j) * words + c];
            if (overlapped) atomicOr(&gone[c], overlapped);
        }
        kept += __popcll(bits);
    }
    if (t == 0) {
        counts[0] = kept;
        counts[1] = all;
        counts[2] = found[1];
        found[0] = found[1] = 0;  // for the next frame
    }
}
