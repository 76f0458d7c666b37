# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from unit_files import load, tensor

from instseg import ops
from instseg._C import PostConfig


def head_outputs(sizes: list[list[int]]) -> list[ops.FcosLevel]:
    """The inputs of the reference run, drawn again from its seed."""
    rng = np.random.Generator(np.random.PCG64(77))

    def draw(mean: float, deviation: float, channels: int) -> list[np.ndarray]:
        return [rng.normal(mean, deviation, (2, channels, h, w)) for h, w in sizes]

    logits, reg, centerness = draw(-3.2, 1, 80), draw(2.5, 1.2, 4), draw(0.5, 1, 1)
    levels = []
    for i, (height, width) in enumerate(sizes):
        stride = 8 << i
        maps = (logits[i], np.maximum(reg[i], 0), centerness[i])
        grid = ops.LocationGrid(height, width, stride, stride, stride // 2)
        levels.append(ops.FcosLevel(*(tensor(m.astype(np.float32)) for m in maps), grid, stride))
    return levels


@pytest.mark.parametrize("name, threshold_on", [("cls", "class"), ("ctr", "product")])
@pytest.mark.parametrize("class_offset", [False, True])
def test_detections_of_the_original(name: str, threshold_on: str, class_offset: bool) -> None:
    unit = load(f"fcos_post_thresh_{name}")
    levels = head_outputs(unit["hw"].tolist())
    for i, found in enumerate(ops.fcos_decode(levels, PostConfig(threshold_on=threshold_on), [])):
        keep = ops.nms(found.boxes, found.scores, found.labels, 0.6, class_offset=class_offset)
        keep = keep[found.scores[keep] >= found.scores[keep[99]]]
        assert found.labels[keep].tolist() == unit[f"classes_{i}"].tolist()
        assert found.levels[keep].tolist() == unit[f"levels_{i}"].tolist()
        torch.testing.assert_close(found.scores[keep], tensor(unit[f"scores_{i}"]), rtol=0, atol=2e-7)
        torch.testing.assert_close(found.boxes[keep], tensor(unit[f"boxes_{i}"]), rtol=0, atol=1e-4)
        places = [
            ops.locations(levels[level].grid)[position].tolist()
            for level, position in zip(found.levels[keep], found.positions[keep], strict=True)
        ]
        assert places == unit[f"locations_{i}"].tolist()


@pytest.mark.parametrize("name, threshold_on", [("cls", "class"), ("ctr", "product")])
def test_candidates_before_the_top_k(name: str, threshold_on: str) -> None:
    unit = load(f"fcos_post_thresh_{name}")
    post = PostConfig(threshold_on=threshold_on, topk_per_level=10**6)
    found = ops.fcos_decode(head_outputs(unit["hw"].tolist()), post, [])[0]
    assert torch.bincount(found.levels, minlength=5).tolist() == unit["candidates_img0"].tolist()


def test_layout_and_dtype_do_not_change_the_result() -> None:
    levels = head_outputs([[24, 32], [12, 16]])
    half = [
        ops.FcosLevel(x.logits.bfloat16(), x.reg.bfloat16(), x.centerness.bfloat16(), x.grid, x.unit)
        for x in levels
    ]
    last = [
        ops.FcosLevel(
            x.logits.contiguous(memory_format=torch.channels_last), x.reg, x.centerness, x.grid, x.unit
        )
        for x in half
    ]
    exact = [
        ops.FcosLevel(x.logits.float(), x.reg.float(), x.centerness.float(), x.grid, x.unit) for x in half
    ]
    results = [ops.fcos_decode(form, PostConfig(), [])[1] for form in (half, last, exact)]
    for other in results[1:]:
        for key in ("boxes", "scores", "labels", "levels", "positions"):
            assert torch.equal(getattr(results[0], key), getattr(other, key)), key
