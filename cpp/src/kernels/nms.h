// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace instseg::kernels {

/**
 * Greedy class-wise NMS. boxes [n, 4], scores [n], labels [n]; labels == nullptr: one class.
 * Returns the kept indices by descending score, ties by index, NaN scores last.
 */
std::vector<int64_t> nms_cpu(const float* boxes, const float* scores, const int64_t* labels, int64_t n,
                             float iou_threshold);

/** Words of 64 boxes in a row of the overlap mask. */
constexpr int64_t nms_words(int64_t n) { return (n + 63) / 64; }

/**
 * The same on the GPU. `order` [n]: box indices by descending score; `mask`
 * [(n + 1) * nms_words(n)], scratch;
 * `keep` [n] receives the kept indices and `count` [1] their number.
 */
void nms_cuda(const float* boxes, const int64_t* labels, const int64_t* order, int64_t n, float iou_threshold,
              uint64_t* mask, int64_t* keep, int64_t* count, void* stream);

/**
 * GPU: the greedy choice alone. Bit k of overlaps[i, w] [n + 1, nms_words(n)] says that the i-th in `order`
 * suppresses the (64 w + k)-th; bits of words before i's are not read, the last row is scratch.
 */
void nms_pick_cuda(const int64_t* order, int64_t n, uint64_t* overlaps, int64_t* keep, int64_t* count,
                   void* stream);

}  // namespace instseg::kernels
