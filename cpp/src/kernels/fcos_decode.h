// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/scalar_kind.h"

namespace instseg::kernels {

/** Which number is compared with the threshold: p, p*c, or the reported score. */
enum class ThresholdOn : int { class_probability, product, score };

struct DecodeRule {
  float threshold;
  ThresholdOn on;
  bool sqrt_score;  // the score is sqrt(p*c), else p*c
};

/** Head outputs of one image and level. Strides in elements. */
struct DecodeView {
  const void* logits;  // [classes, height, width], dense: classes-first, or classes-last when channels_last
  const void* reg;     // [4, height, width], any strides
  const void* centerness;  // [height, width], any strides
  ScalarKind kind;
  bool channels_last;
  int64_t classes, height, width;
  int64_t reg_channel, reg_row, reg_column;
  int64_t centerness_row, centerness_column;
  int64_t step_x, step_y, offset;  // location of a cell, px
  float unit;                      // px per unit of reg
  float clip_width, clip_height;   // px; negative: boxes are not clipped

  int64_t cells() const { return height * width; }
};

/** A (location, class) pair above the threshold. */
struct Candidate {
  float product;  // p*c
  int32_t position;
  int32_t label;
};

/** sigmoid(centerness) of every cell. */
std::vector<float> centerness_cpu(const DecodeView& view);

/** 1 for the `count` cells with the largest max_class(p)*c (ties: lower index), else 0. */
std::vector<char> best_cells_cpu(const DecodeView& view, const std::vector<float>& centerness, int64_t count);

/**
 * Appends the candidates among the logits at memory offsets begin..end-1 of the view. `allowed` [cells]
 * restricts the cells unless null.
 */
void find_candidates_cpu(const DecodeView& view, const DecodeRule& rule, const float* centerness,
                         const char* allowed, int64_t begin, int64_t end, std::vector<Candidate>& out);

/** Keeps the `count` largest products (ties: lower position, then lower label), sorted by position, then
 * label. */
void keep_best_cpu(std::vector<Candidate>& candidates, int64_t count);

/** Writes boxes [n, 4] and scores, labels, positions [n]. */
void decode_boxes_cpu(const DecodeView& view, const DecodeRule& rule,
                      const std::vector<Candidate>& candidates, float* boxes, float* scores, int64_t* labels,
                      int64_t* positions);

/**
 * GPU: appends candidates of one level in any order: products [capacity], keys [capacity] = position *
 * classes + label, count [1], zero before. capacity = classes * cells. `allowed` [cells] or null.
 */
void find_candidates_cuda(const DecodeView& view, const DecodeRule& rule, const bool* allowed,
                          float* products, int64_t* keys, int32_t* count, void* stream);

/** GPU: decodes n candidates of one level. */
void decode_boxes_cuda(const DecodeView& view, const DecodeRule& rule, const float* products,
                       const int64_t* keys, int64_t n, float* boxes, float* scores, int64_t* labels,
                       int64_t* positions, void* stream);

}  // namespace instseg::kernels
