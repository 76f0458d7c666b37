// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace instseg::kernels {

/** Sizes of a resize of interleaved images, [in_height, in_width, channels] -> [out_height, out_width,
 * channels]. */
struct ResizeShape {
  int64_t in_height, in_width, out_height, out_width, channels;
};

/** Fixed-point filter of one axis: output o is the sum over t < taps of weights[o, t] * input[start[o] + t].
 */
struct FilterAxis {
  int64_t taps = 0;
  std::vector<int32_t> start;    // [out], start + taps <= in
  std::vector<int32_t> weights;  // [out, taps], in units of 1 / 2^22
};

/** Two-point interpolation of one output index. */
template <class Weight>
struct LinearTap {
  int32_t index0, index1;
  Weight weight0, weight1;
};

/** Pillow's BILINEAR, anti-aliased when shrinking. */
FilterAxis pillow_axis(int64_t in, int64_t out);
/** OpenCV's INTER_LINEAR; weights in units of 1 / 2^11. */
std::vector<LinearTap<int32_t>> opencv_axis(int64_t in, int64_t out);
/** Half-pixel centres without anti-aliasing, in float32 as torch's upsample_bilinear2d(align_corners=False).
 */
std::vector<LinearTap<float>> float_axis(int64_t in, int64_t out);
/** Source index of each output index under Pillow's NEAREST, [out]. */
std::vector<int32_t> pillow_nearest(int64_t in, int64_t out);
/** Source index of each output index under OpenCV's INTER_NEAREST, [out]. */
std::vector<int32_t> opencv_nearest(int64_t in, int64_t out);

// CPU. The bilinear kernels take 3 channels, resize_nearest any number.
/** Two passes, columns first, each rounded to uint8; a pass that changes nothing is skipped. */
void resize_pillow(const uint8_t* in, const ResizeShape& shape, uint8_t* out);
void resize_opencv(const uint8_t* in, const ResizeShape& shape, uint8_t* out);
void resize_float(const uint8_t* in, const ResizeShape& shape, float* out);
/** out[y, x] = in[rows[y], columns[x]]. */
void resize_nearest(const uint8_t* in, const ResizeShape& shape, const int32_t* rows, const int32_t* columns,
                    uint8_t* out);

// CUDA launchers. All pointers are device memory, the tables included; `stream` is a cudaStream_t.
/** One pass over columns: [height, in_width, channels] -> [height, out_width, channels]. */
void filter_columns_cuda(const uint8_t* in, const ResizeShape& shape, int64_t taps, const int32_t* start,
                         const int32_t* weights, uint8_t* out, void* stream);
/** One pass over rows: [in_height, out_width, channels] -> [out_height, out_width, channels]. */
void filter_rows_cuda(const uint8_t* in, const ResizeShape& shape, int64_t taps, const int32_t* start,
                      const int32_t* weights, uint8_t* out, void* stream);
void resize_opencv_cuda(const uint8_t* in, const ResizeShape& shape, const LinearTap<int32_t>* rows,
                        const LinearTap<int32_t>* columns, uint8_t* out, void* stream);
void resize_float_cuda(const uint8_t* in, const ResizeShape& shape, const LinearTap<float>* rows,
                       const LinearTap<float>* columns, float* out, void* stream);
void resize_nearest_cuda(const uint8_t* in, const ResizeShape& shape, const int32_t* rows,
                         const int32_t* columns, uint8_t* out, void* stream);

}  // namespace instseg::kernels
