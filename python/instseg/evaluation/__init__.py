# SPDX-License-Identifier: Apache-2.0
"""COCO evaluation of boxes and masks."""

from instseg.evaluation.coco import (
    MASK_PREFIX,
    evaluate,
    evaluate_detections,
    predicts_masks,
    summary_line,
)

__all__ = ["MASK_PREFIX", "evaluate", "evaluate_detections", "predicts_masks", "summary_line"]
