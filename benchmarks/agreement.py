# SPDX-License-Identifier: Apache-2.0
"""How far two sets of detections of one image agree."""

from __future__ import annotations

import torch

import instseg


def agreement(ours: instseg.Instances, theirs: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Share of `theirs` above 0.3 with one of `ours` of the same label within 1 px and 0.02; worst errors."""
    boxes, scores, labels = theirs
    strong = scores > 0.3
    boxes, scores, labels = boxes[strong], scores[strong], labels[strong]
    if not len(boxes) or not len(ours):
        return {"compared": len(boxes), "share": 0.0, "max_box_error": 0.0, "max_score_error": 0.0}
    same = labels[:, None] == ours.labels[None]
    distance = (boxes[:, None] - ours.boxes[None]).abs().amax(2).masked_fill(~same, float("inf"))
    box_error, index = distance.min(1)
    score_error = (scores - ours.scores[index]).abs()
    close = (box_error <= 1) & (score_error <= 0.02)
    matched = torch.isfinite(box_error) & (box_error <= 1)
    return {
        "compared": int(strong.sum()),
        "share": float(close.float().mean()),
        "max_box_error": float(box_error[matched].max()) if matched.any() else 0.0,
        "max_score_error": float(score_error[matched].max()) if matched.any() else 0.0,
    }
