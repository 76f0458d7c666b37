// SPDX-License-Identifier: Apache-2.0
#include "kernels/binary_masks.h"
#include "kernels/host_device.h"
#include "kernels/launch.cuh"

namespace instseg::kernels {
namespace {

constexpr unsigned kFull = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSide = 16;   // pairs in a row and a column of a block
constexpr int kChunk = 32;  // words of each mask in shared memory

// One block per mask, one warp per word: two ballots are its bits. The order of the sums is fixed.
__global__ void pack_mask(const float* probabilities, int64_t pixels, int64_t stride, float threshold,
                          int64_t words, unsigned long long* bits, int64_t* areas, float* mass) {
  const float* values = probabilities + blockIdx.x * stride;
  unsigned long long* out = bits + blockIdx.x * words;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  long long area = 0;
  double sum = 0;
  for (int64_t word = warp; word < words; word += kWarps) {
    const int64_t low = word * 64 + lane, high = low + kWarp;
    const float first = low < pixels ? values[low] : 0.0f, second = high < pixels ? values[high] : 0.0f;
    const bool first_inside = low < pixels && first > threshold;
    const bool second_inside = high < pixels && second > threshold;
    const unsigned long long low_bits = __ballot_sync(kFull, first_inside);
    const unsigned long long high_bits = __ballot_sync(kFull, second_inside);
    const unsigned long long both = high_bits << kWarp | low_bits;
    if (lane == 0) out[word] = both;
    area += __popcll(both);
    if (first_inside) sum += static_cast<double>(first);
    if (second_inside) sum += static_cast<double>(second);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(kFull, sum, step);
  __shared__ double sums[kWarps];
  __shared__ long long counts[kWarps];
  if (lane == 0) {
    sums[warp] = sum;
    counts[warp] = area;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) {
    sum += sums[i];
    area += counts[i];
  }
  areas[blockIdx.x] = area;
  mass[blockIdx.x] = static_cast<float>(sum);
}

// Block (column, row) of 16 x 16 threads: a pair per thread, the words of its masks pass through shared
// memory in chunks. With `labels` a and b are the same masks, and only pairs i < j of one label are counted.
__global__ void write_ious(PackedView a, int64_t n, PackedView b, int64_t m, const int64_t* labels,
                           float* iou) {
  if (labels && blockIdx.y > blockIdx.x) return;
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kSide;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kSide;
  const int64_t i = first_row + ty, j = first_column + tx;
  const bool inside = i < n && j < m;
  const bool wanted = inside && (!labels || (i < j && labels[i] == labels[j]));
  long long common = 0;
  if (__syncthreads_or(wanted)) {
    __shared__ unsigned long long rows[kSide][kChunk + 1], columns[kSide][kChunk + 1];
    const int thread = ty * kSide + tx;
    for (int64_t start = 0; start < a.words; start += kChunk) {
      for (int k = thread; k < kSide * kChunk; k += kSide * kSide) {
        const int mask = k / kChunk, place = k % kChunk;
        const int64_t word = start + place, row = first_row + mask, column = first_column + mask;
        rows[mask][place] = word < a.words && row < n ? a.bits[row * a.words + word] : 0;
        columns[mask][place] = word < a.words && column < m ? b.bits[column * b.words + word] : 0;
      }
      __syncthreads();
      for (int k = 0; k < kChunk; ++k) common += __popcll(rows[ty][k] & columns[tx][k]);
      __syncthreads();
    }
  }
  if (!inside || (labels && i >= j)) return;
  const long long united = wanted ? a.areas[i] + b.areas[j] - common : 0;
  iou[i * m + j] =
      wanted && common > 0 ? div_rn(static_cast<float>(common), static_cast<float>(united)) : 0.0f;
}

// largest[j] = the largest IoU of mask j with one before it.
__global__ void find_largest(const float* iou, int64_t n, float* largest) {
  const int64_t j = thread_index();
  if (j >= n) return;
  float best = 0.0f;
  for (int64_t i = 0; i < j; ++i) best = fmaxf(best, iou[i * n + j]);
  largest[j] = best;
}

// As decay_scores_cpu; pairs of different labels have IoU 0 and change nothing.
__global__ void decay_scores(const float* iou, int64_t n, DecayRule rule, const float* scores,
                             const float* largest, float* result) {
  const int64_t j = thread_index();
  if (j >= n) return;
  float excess = 0.0f, ratio = 1.0f;
  for (int64_t i = 0; i < j; ++i) {
    const float value = iou[i * n + j], other = largest[i];
    if (rule.kernel == DecayKernel::gaussian) {
      excess = fmaxf(excess, sub_rn(mul_rn(value, value), mul_rn(other, other)));
    } else {
      const float left = 1.0f - value;
      ratio = fminf(ratio, left > 0.0f ? div_rn(left, 1.0f - other) : 0.0f);  // 0 / 0 counts as 0
    }
  }
  const float decay = rule.kernel == DecayKernel::gaussian ? expf(-rule.sigma * excess) : ratio;
  result[j] = scores[j] * decay;
}

// One warp per word of a row.
__global__ void mark_overlaps(const float* iou, int64_t n, int64_t words, float threshold,
                              unsigned long long* overlaps) {
  const int64_t warp = thread_index() / kWarp, i = warp / words, word = warp % words;
  if (i >= n) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t low = word * 64 + lane, high = low + kWarp;
  const unsigned long long low_bits =
      __ballot_sync(kFull, low > i && low < n && iou[i * n + low] > threshold);
  const unsigned long long high_bits =
      __ballot_sync(kFull, high > i && high < n && iou[i * n + high] > threshold);
  if (lane == 0) overlaps[warp] = high_bits << kWarp | low_bits;
}

dim3 tiles(int64_t rows, int64_t columns, const char* function) {
  const int64_t y = (rows + kSide - 1) / kSide, x = (columns + kSide - 1) / kSide;
  check<Error>(y <= 65535, "[", function, "] ", rows, " masks; at most ", 65535 * kSide, " on a GPU");
  return {static_cast<unsigned>(x), static_cast<unsigned>(y)};
}

}  // namespace

void pack_masks_cuda(const float* probabilities, int64_t n, int64_t pixels, int64_t stride, float threshold,
                     uint64_t* bits, int64_t* areas, float* mass, void* stream) {
  if (n == 0) return;
  pack_mask<<<static_cast<unsigned>(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      probabilities, pixels, stride, threshold, mask_words(pixels),
      reinterpret_cast<unsigned long long*>(bits), areas, mass);
  check_launch("pack_masks");
}

void mask_iou_cuda(const PackedView& a, int64_t n, const PackedView& b, int64_t m, float* iou, void* stream) {
  if (n == 0 || m == 0) return;
  write_ious<<<tiles(n, m, "mask_iou"), dim3(kSide, kSide), 0, static_cast<cudaStream_t>(stream)>>>(
      a, n, b, m, nullptr, iou);
  check_launch("mask_iou");
}

void iou_triangle_cuda(const PackedView& masks, const int64_t* labels, int64_t n, float* iou, void* stream) {
  if (n == 0) return;
  write_ious<<<tiles(n, n, "matrix_nms"), dim3(kSide, kSide), 0, static_cast<cudaStream_t>(stream)>>>(
      masks, n, masks, n, labels, iou);
  check_launch("matrix_nms");
}

void decay_scores_cuda(const float* iou, int64_t n, DecayRule rule, const float* scores, float* largest,
                       float* result, void* stream) {
  if (n == 0) return;
  const auto queue = static_cast<cudaStream_t>(stream);
  find_largest<<<blocks_for(n), kThreads, 0, queue>>>(iou, n, largest);
  decay_scores<<<blocks_for(n), kThreads, 0, queue>>>(iou, n, rule, scores, largest, result);
  check_launch("matrix_nms");
}

void mark_overlaps_cuda(const float* iou, int64_t n, float iou_threshold, uint64_t* overlaps, void* stream) {
  if (n == 0) return;
  const int64_t words = mask_words(n);
  mark_overlaps<<<blocks_for(n * words * kWarp), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      iou, n, words, iou_threshold, reinterpret_cast<unsigned long long*>(overlaps));
  check_launch("mask_nms");
}

}  // namespace instseg::kernels
