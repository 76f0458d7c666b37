# SPDX-License-Identifier: Apache-2.0
"""COCO evaluation of boxes."""

from instseg.evaluation.coco import evaluate, evaluate_detections, summary_line

__all__ = ["evaluate", "evaluate_detections", "summary_line"]
