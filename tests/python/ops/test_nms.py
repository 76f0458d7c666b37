# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from unit_files import load, tensor

from instseg import ops


@pytest.mark.parametrize("count", [60, 300, 1500])
@pytest.mark.parametrize("class_offset", [False, True])
def test_keeps_what_the_originals_keep(count: int, class_offset: bool) -> None:
    unit = load(f"nms_{count}")
    boxes, scores, labels = (tensor(unit[key]) for key in ("boxes", "scores", "classes"))
    expected = unit["keep_coordinate_trick" if class_offset else "keep_vanilla"]
    kept = ops.nms(boxes, scores, labels, 0.6, class_offset=class_offset)
    assert kept.tolist() == expected.tolist()


def test_class_offset_can_suppress_across_classes() -> None:
    unit = load("nms_300")
    assert unit["keep_coordinate_trick"].size < unit["keep_vanilla"].size


def test_wrong_arguments_are_named() -> None:
    boxes, scores = torch.zeros(2, 4), torch.zeros(2)
    with pytest.raises(ValueError, match=r"\[nms\] labels has shape \[3\]; expected \[2\]"):
        ops.nms(boxes, scores, torch.zeros(3, dtype=torch.long), 0.5)
    with pytest.raises(TypeError, match=r"\[nms\] labels is Float"):
        ops.nms(boxes, scores, torch.zeros(2), 0.5)
