# SPDX-License-Identifier: Apache-2.0
"""COCO evaluation of boxes and masks."""

from instseg.evaluation.coco import (
    compare_detections,
    evaluate,
    evaluate_detections,
    predicts_masks,
)
from instseg.evaluation.evaluator import CocoEvaluator
from instseg.evaluation.results import MASK_PREFIX, CocoResult, summary_line

__all__ = [
    "MASK_PREFIX",
    "CocoEvaluator",
    "CocoResult",
    "compare_detections",
    "evaluate",
    "evaluate_detections",
    "predicts_masks",
    "summary_line",
]
