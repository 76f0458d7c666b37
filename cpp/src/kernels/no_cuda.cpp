// SPDX-License-Identifier: Apache-2.0
// Compiled instead of the .cu files when there is no CUDA compiler: every launcher says so.
#include <string>

#include "instseg/error.h"
#include "kernels/aligned_bilinear.h"
#include "kernels/binary_masks.h"
#include "kernels/blend.h"
#include "kernels/box_loss.h"
#include "kernels/cuda_info.h"
#include "kernels/dice_loss.h"
#include "kernels/dynamic_mask_head.h"
#include "kernels/fcos_decode.h"
#include "kernels/fcos_targets.h"
#include "kernels/focal_loss.h"
#include "kernels/nms.h"
#include "kernels/normalize.h"
#include "kernels/paste.h"
#include "kernels/resize.h"

namespace instseg::kernels {
namespace {

[[noreturn]] void unavailable(const char* function) {
  throw Error(join("[", function, "] this build has no CUDA kernels; rebuild with a CUDA compiler"));
}

}  // namespace

// ---- resize.h ----
void filter_columns_cuda(const uint8_t*, const ResizeShape&, int64_t, const int32_t*, const int32_t*,
                         uint8_t*, void*) {
  unavailable("resize_image");
}
void filter_rows_cuda(const uint8_t*, const ResizeShape&, int64_t, const int32_t*, const int32_t*, uint8_t*,
                      void*) {
  unavailable("resize_image");
}
void resize_opencv_cuda(const uint8_t*, const ResizeShape&, const LinearTap<int32_t>*,
                        const LinearTap<int32_t>*, uint8_t*, void*) {
  unavailable("resize_image");
}
void resize_float_cuda(const uint8_t*, const ResizeShape&, const LinearTap<float>*, const LinearTap<float>*,
                       float*, void*) {
  unavailable("resize_image");
}
void resize_nearest_cuda(const uint8_t*, const ResizeShape&, const int32_t*, const int32_t*, uint8_t*,
                         void*) {
  unavailable("resize_mask");
}

// ---- normalize.h ----
void normalize_cuda(const uint8_t*, const Normalization&, float*, void*) { unavailable("make_batch"); }
void normalize_cuda(const float*, const Normalization&, float*, void*) { unavailable("make_batch"); }

// ---- nms.h ----
void nms_cuda(const float*, const int64_t*, const int64_t*, int64_t, float, uint64_t*, int64_t*, int64_t*,
              void*) {
  unavailable("nms");
}
void nms_pick_cuda(const int64_t*, int64_t, uint64_t*, int64_t*, int64_t*, void*) { unavailable("nms"); }

// ---- focal_loss.h ----
void focal_loss_cuda(const void*, ScalarKind, const int64_t*, int64_t, int64_t, FocalParams, double*, void*) {
  unavailable("sigmoid_focal_loss");
}
void focal_loss_backward_cuda(const void*, ScalarKind, const int64_t*, int64_t, int64_t, FocalParams,
                              const float*, void*, void*) {
  unavailable("sigmoid_focal_loss");
}

// ---- box_loss.h ----
void box_loss_cuda(const float*, const float*, const float*, int64_t, BoxLossParams, double*, float*, void*) {
  unavailable("box_loss");
}
void box_iou_cuda(const float*, const float*, int64_t, double, float*, void*) { unavailable("box_iou"); }

// ---- dice_loss.h ----
void dice_sums_cuda(const DiceInput&, float*, void*) { unavailable("dice_loss"); }
void dice_backward_cuda(const DiceInput&, const float*, void*, void*) { unavailable("dice_loss"); }

// ---- fcos_targets.h ----
void assign_cuda(const AssignLevel&, AssignRule, const float*, const int64_t*, const float*, const int64_t*,
                 int64_t, int64_t, int64_t*, float*, int64_t*, void*) {
  unavailable("fcos_targets");
}

// ---- fcos_decode.h ----
void find_candidates_cuda(const DecodeView&, const DecodeRule&, const bool*, float*, int64_t*, int32_t*,
                          void*) {
  unavailable("fcos_decode");
}
void decode_boxes_cuda(const DecodeView&, const DecodeRule&, const float*, const int64_t*, int64_t, float*,
                       float*, int64_t*, int64_t*, void*) {
  unavailable("fcos_decode");
}

// ---- blend.h ----
void blend_cuda(const BlendInput&, float*, void*) { unavailable("blend"); }
void blend_attention_backward_cuda(const BlendInput&, const float*, float*, void*) { unavailable("blend"); }
void blend_bases_backward_cuda(const BlendInput&, const float*, float*, void*) { unavailable("blend"); }
// ---- paste.h ----
void paste_bitmaps_cuda(const PasteJob&, uint8_t*, void*) { unavailable("Masks.bitmaps"); }
void paste_count_cuda(const PasteJob&, int32_t*, void*) { unavailable("Masks.rle"); }
void paste_places_cuda(const PasteJob&, const int64_t*, uint32_t*, void*) { unavailable("Masks.rle"); }
// ---- aligned_bilinear.h ----
void aligned_bilinear_cuda(const void*, ScalarKind, const EnlargeShape&, void*, void*) {
  unavailable("aligned_bilinear");
}
void aligned_bilinear_backward_cuda(const void*, ScalarKind, const EnlargeShape&, void*, void*) {
  unavailable("aligned_bilinear");
}

// ---- dynamic_mask_head.h ----
void dynamic_mask_head_cuda(const HeadView&, float*, void*) { unavailable("dynamic_mask_head"); }
void dynamic_mask_head_features_cuda(const HeadView&, const int64_t*, const int64_t*, const float*, float*,
                                     void*) {
  unavailable("dynamic_mask_head");
}
void dynamic_mask_head_parameters_cuda(const HeadView&, const float*, float*, void*) {
  unavailable("dynamic_mask_head");
}

// ---- binary_masks.h ----
void pack_masks_cuda(const float*, int64_t, int64_t, int64_t, float, uint64_t*, int64_t*, float*, void*) {
  unavailable("pack_masks");
}
void mask_iou_cuda(const PackedView&, int64_t, const PackedView&, int64_t, float*, void*) {
  unavailable("mask_iou");
}
void iou_triangle_cuda(const PackedView&, const int64_t*, int64_t, float*, void*) {
  unavailable("matrix_nms");
}
void decay_scores_cuda(const float*, int64_t, DecayRule, const float*, float*, float*, void*) {
  unavailable("matrix_nms");
}
void mark_overlaps_cuda(const float*, int64_t, float, uint64_t*, void*) { unavailable("mask_nms"); }

// ---- cuda_info.h ----
bool cuda_compiled() { return false; }

}  // namespace instseg::kernels
