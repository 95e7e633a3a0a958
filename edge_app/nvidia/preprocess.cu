// A frame becomes the network's input: halved while it is far larger (card.halvings), then in one pass bilinear
// stretch, colour order, normalisation, NCHW.
//
// C++14 without any header, so that nvcc 10.2 (sm_53), NVRTC and g++ (tests/nvidia/standin) all take it.
// The arithmetic is that of cv2.resize on uint8, step for step: INTER_AREA by two, then INTER_LINEAR, whose weights are
// in kernels.stretch_table. Tests find no difference from OpenCV 4.6 and 5.0 on a PC, and allow 1 LSB (other builds may
// differ). One thread makes one pixel of all three channels.

typedef unsigned char u8;

enum { BGR = 0, RGB = 1, BGRX = 2, RGBA = 3, NV12 = 4 };  // kernels.PIXEL_FORMATS

struct Colour {
    int blue, green, red;
};

__device__ __forceinline__ int to_byte(int value) { return value < 0 ? 0 : (value > 255 ? 255 : value); }

// BT.601 limited range in 20-bit fixed point, the numbers of cv2.COLOR_YUV2BGR_NV12.
__device__ __forceinline__ Colour from_yuv(int luma, int u, int v) {
    const int y = (luma > 16 ? luma - 16 : 0) * 1220542 + (1 << 19);
    u -= 128;
    v -= 128;
    Colour c;
    c.blue = to_byte((y + 2116026 * u) >> 20);
    c.green = to_byte((y - 852492 * v - 409993 * u) >> 20);
    c.red = to_byte((y + 1673527 * v) >> 20);
    return c;
}

__device__ __forceinline__ Colour pixel(const u8* source, int format, int pitch, int height, int x, int y) {
    if (format == NV12) {  // a plane of luma, then one of interleaved chroma at half the size
        const u8* chroma = source + (height + y / 2) * pitch + x / 2 * 2;
        return from_yuv(source[y * pitch + x], chroma[0], chroma[1]);
    }
    const u8* p = source + y * pitch + x * (format >= BGRX ? 4 : 3);
    Colour c;
    c.green = p[1];
    c.blue = format == RGB || format == RGBA ? p[2] : p[0];
    c.red = format == RGB || format == RGBA ? p[0] : p[2];
    return c;
}

// Grid: blocks of (32, 8) that cover the half.
//   source          width x height pixels, rows `pitch` bytes apart; NV12: width and height even
//   half            (height / 2, width / 2, 3) u8 BGR: means of 2x2 pixels, halves rounded up
extern "C" __global__ void halve(const u8* source, int format, int height, int pitch, u8* half, int half_width,
                                 int half_height) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= half_width || y >= half_height) return;
    const Colour a = pixel(source, format, pitch, height, 2 * x, 2 * y);
    const Colour b = pixel(source, format, pitch, height, 2 * x + 1, 2 * y);
    const Colour c = pixel(source, format, pitch, height, 2 * x, 2 * y + 1);
    const Colour d = pixel(source, format, pitch, height, 2 * x + 1, 2 * y + 1);
    u8* p = half + 3 * (y * half_width + x);
    p[0] = (u8)((a.blue + b.blue + c.blue + d.blue + 2) >> 2);
    p[1] = (u8)((a.green + b.green + c.green + d.green + 2) >> 2);
    p[2] = (u8)((a.red + b.red + c.red + d.red + 2) >> 2);
}

// Two source positions and their weights; a row of kernels.stretch_table.
struct Between {
    int first, second, weight_1, weight_2;
};

// The four shifts are cv2's: it keeps 16 bits of the horizontal sums for its vector units.
__device__ __forceinline__ float blend(int a, int b, int c, int d, Between across, Between down, float scale,
                                       float shift) {
    const int top = (a * across.weight_1 + b * across.weight_2) >> 4;
    const int bottom = (c * across.weight_1 + d * across.weight_2) >> 4;
    const int value = ((top * down.weight_1 >> 16) + (bottom * down.weight_2 >> 16) + 2) >> 2;
    return __fadd_rn(__fmul_rn((float)value, scale), shift);
}

// Grid: blocks of (32, 8) that cover the tensor.
//   source          width x height pixels, rows `pitch` bytes apart; NV12: width and height even
//   columns, rows   where each column (row) of the tensor lies in the source
//   tensor          (3, tensor_height, tensor_width) float; the first channel is red when red_first
//   scale_N, shift_N of channel N: pixel * scale + shift, rounded twice, as NumPy does it
extern "C" __global__ void preprocess(const u8* source, int format, int height, int pitch,
                                      const Between* columns, const Between* rows, float* tensor, int tensor_width,
                                      int tensor_height, int red_first, float scale_0, float scale_1,
                                      float scale_2, float shift_0, float shift_1, float shift_2) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= tensor_width || y >= tensor_height) return;
    const Between across = columns[x], down = rows[y];
    const Colour a = pixel(source, format, pitch, height, across.first, down.first);
    const Colour b = pixel(source, format, pitch, height, across.second, down.first);
    const Colour c = pixel(source, format, pitch, height, across.first, down.second);
    const Colour d = pixel(source, format, pitch, height, across.second, down.second);
    const int plane = tensor_width * tensor_height, at = y * tensor_width + x;
    const int red = red_first ? 0 : 2, blue = 2 - red;
    tensor[red * plane + at] = blend(a.red, b.red, c.red, d.red, across, down,
                                     red_first ? scale_0 : scale_2, red_first ? shift_0 : shift_2);
    tensor[plane + at] = blend(a.green, b.green, c.green, d.green, across, down, scale_1, shift_1);
    tensor[blue * plane + at] = blend(a.blue, b.blue, c.blue, d.blue, across, down,
                                      red_first ? scale_2 : scale_0, red_first ? shift_2 : shift_0);
}
