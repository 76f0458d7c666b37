// SPDX-License-Identifier: Apache-2.0
#include "kernels/host_device.h"
#include "kernels/launch.cuh"
#include "kernels/nms.h"

namespace instseg::kernels {
namespace {

constexpr int kWord = 64;

// A box in shared memory with its class; 24 bytes.
struct Entry {
  float x1, y1, x2, y2;
  int64_t label;
};

__device__ Entry load_entry(const float* boxes, const int64_t* labels, int64_t index) {
  const float* box = boxes + 4 * index;
  return {box[0], box[1], box[2], box[3], labels ? labels[index] : 0};
}

__device__ float entry_area(const Entry& a) { return mul_rn(sub_rn(a.x2, a.x1), sub_rn(a.y2, a.y1)); }

// The order of operations is torchvision's, unfused, as on the CPU.
__device__ bool overlaps(const Entry& a, const Entry& b, float threshold) {
  if (a.label != b.label) return false;
  const float width = fmaxf(sub_rn(fminf(a.x2, b.x2), fmaxf(a.x1, b.x1)), 0.0f);
  const float height = fmaxf(sub_rn(fminf(a.y2, b.y2), fmaxf(a.y1, b.y1)), 0.0f);
  const float inter = mul_rn(width, height);
  return div_rn(inter, sub_rn(add_rn(entry_area(a), entry_area(b)), inter)) > threshold;
}

// Block (column, row) of 64 threads: bit k of mask[i, column] says that box i suppresses box 64 * column + k.
// Only later boxes are marked, so only blocks on and above the diagonal do work.
__global__ void mark_overlaps(const float* boxes, const int64_t* labels, const int64_t* order, int64_t n,
                              int64_t words, float threshold, unsigned long long* mask) {
  const int64_t column = blockIdx.x, row = blockIdx.y;
  if (row > column) return;
  __shared__ Entry others[kWord];
  const int64_t other = column * kWord + threadIdx.x;
  if (other < n) others[threadIdx.x] = load_entry(boxes, labels, order[other]);
  __syncthreads();
  const int64_t i = row * kWord + threadIdx.x;
  if (i >= n) return;
  const Entry own = load_entry(boxes, labels, order[i]);
  const int64_t left = n - column * kWord;
  const int count = left < kWord ? static_cast<int>(left) : kWord;
  unsigned long long bits = 0;
  for (int k = row == column ? static_cast<int>(threadIdx.x) + 1 : 0; k < count; ++k) {
    if (overlaps(own, others[k], threshold)) bits |= 1ull << k;
  }
  mask[i * words + column] = bits;
}

// One block walks the words in order: thread 0 settles the 64 boxes of a word, then all threads pass the kept
// rows on to the later words. Word `word` of `removed` [words] was completed by the words before.
__global__ void pick_kept(const int64_t* order, int64_t n, int64_t words, const unsigned long long* mask,
                          unsigned long long* removed, int64_t* keep, int64_t* count) {
  __shared__ unsigned long long diagonal[kWord];
  __shared__ unsigned long long kept;
  int64_t total = 0;
  for (int64_t word = 0; word < words; ++word) {
    const int64_t first = word * kWord;
    const int size = n - first < kWord ? static_cast<int>(n - first) : kWord;
    if (threadIdx.x < static_cast<unsigned>(size)) {
      diagonal[threadIdx.x] = mask[(first + threadIdx.x) * words + word];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long gone = removed[word], alive = 0;
      for (int k = 0; k < size; ++k) {
        if (gone >> k & 1) continue;
        alive |= 1ull << k;
        gone |= diagonal[k];
      }
      kept = alive;
    }
    __syncthreads();
    const unsigned long long alive = kept;
    for (int64_t later = word + 1 + threadIdx.x; later < words; later += blockDim.x) {
      unsigned long long bits = removed[later];
      for (unsigned long long rest = alive; rest != 0; rest &= rest - 1) {
        bits |= mask[(first + __ffsll(static_cast<long long>(rest)) - 1) * words + later];
      }
      removed[later] = bits;
    }
    if (threadIdx.x < static_cast<unsigned>(size) && alive >> threadIdx.x & 1) {
      keep[total + __popcll(alive & ((1ull << threadIdx.x) - 1))] = order[first + threadIdx.x];
    }
    total += __popcll(alive);
    __syncthreads();
  }
  if (threadIdx.x == 0) *count = total;
}

}  // namespace

void nms_cuda(const float* boxes, const int64_t* labels, const int64_t* order, int64_t n, float iou_threshold,
              uint64_t* mask, int64_t* keep, int64_t* count, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t words = nms_words(n);
  check<Error>(words <= 65535, "[nms] ", n, " boxes; at most ", 65535 * kWord, " on a GPU");
  const dim3 blocks(static_cast<unsigned>(words), static_cast<unsigned>(words));
  mark_overlaps<<<blocks, kWord, 0, queue>>>(boxes, labels, order, n, words, iou_threshold,
                                             reinterpret_cast<unsigned long long*>(mask));
  check_launch("nms");
  nms_pick_cuda(order, n, mask, keep, count, stream);
}

void nms_pick_cuda(const int64_t* order, int64_t n, uint64_t* overlaps, int64_t* keep, int64_t* count,
                   void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t words = nms_words(n);
  auto* bits = reinterpret_cast<unsigned long long*>(overlaps);
  unsigned long long* removed = bits + n * words;
  const cudaError_t error = cudaMemsetAsync(removed, 0, static_cast<size_t>(words) * sizeof(*removed), queue);
  check<Error>(error == cudaSuccess, "[nms] ", cudaGetErrorString(error));
  pick_kept<<<1, 512, 0, queue>>>(order, n, words, bits, removed, keep, count);
  check_launch("nms");
}

}  // namespace instseg::kernels
