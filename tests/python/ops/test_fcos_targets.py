# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from unit_files import load, tensor

from instseg import ops
from instseg._C import TargetConfig

NUM_CLASSES = 80


def levels_of(unit: dict[str, np.ndarray]) -> list[ops.TargetLevel]:
    height, width = unit["hw"].tolist()
    levels = []
    for i, (lower, upper) in enumerate(unit["soi"].tolist()):
        stride = 8 << i
        grid = ops.LocationGrid(-(-height // stride), -(-width // stride), stride, stride, stride // 2)
        levels.append(ops.TargetLevel(grid, stride, lower, upper))
    assert [level.grid.height * level.grid.width for level in levels] == unit["num_loc"].tolist()
    return levels


def mask_centers(unit: dict[str, np.ndarray]) -> torch.Tensor:
    height, width = unit["hw"].tolist()
    masks = np.unpackbits(unit["masks_bits"], axis=1)[:, : height * width].reshape(-1, height, width)
    x = (masks * np.arange(width)).sum((1, 2)) / masks.sum((1, 2))
    y = (masks * np.arange(height)[:, None]).sum((1, 2)) / masks.sum((1, 2))
    return tensor(np.stack([x, y], 1).astype(np.float32))


@pytest.mark.parametrize("name", ["center", "nocenter", "rt", "center_masks"])
def test_assigns_what_the_original_assigns(name: str) -> None:
    unit = load(f"fcos_targets_{name}")
    config = TargetConfig(center_radius=0.0 if name == "nocenter" else 1.5)
    centers = [mask_centers(unit)] if name == "center_masks" else []
    image = ops.Targets(tensor(unit["boxes"]), tensor(unit["classes"]))
    targets = ops.fcos_targets(levels_of(unit), [image], NUM_CLASSES, config, centers)

    assert targets.labels.tolist() == unit["labels"].tolist()
    positive = (targets.labels != NUM_CLASSES).nonzero()[:, 0]
    assert positive.tolist() == unit["pos_inds"].tolist()
    assert targets.gt_index[positive].tolist() == unit["gt_inds"][unit["pos_inds"]].tolist()
    assert (targets.gt_index[targets.labels == NUM_CLASSES] == -1).all()
    assert torch.equal(targets.reg[positive], tensor(unit["pos_reg"]))
    torch.testing.assert_close(
        ops.centerness_of(targets.reg[positive]), tensor(unit["pos_ctr"]), rtol=0, atol=2e-7
    )


def is_positive(x: int, box: list[float], lower: float, upper: float, config: TargetConfig) -> bool:
    """Whether a lone location (x, x) of a stride 8 level takes the box."""
    level = ops.TargetLevel(ops.LocationGrid(1, 1, 8, 8, x), 8, lower, upper)
    image = ops.Targets(torch.tensor([box]), torch.zeros(1, dtype=torch.long))
    return ops.fcos_targets([level], [image], 1, config).labels.item() == 0


@pytest.mark.parametrize("rule, closed", [("fcos", True), ("torchvision", False)])
def test_distance_exactly_on_a_level_bound(rule: str, closed: bool) -> None:
    config = TargetConfig(rule=rule, center_radius=0.0)
    box = [0.0, 0.0, 84.0, 30.0]  # right distance 64 at x = 20
    assert is_positive(20, box, 0, 64, config) is closed
    assert is_positive(20, box, 64, 128, config) is closed
    assert is_positive(20, box, 63, 65, config)
    assert not is_positive(20, box, 0, 63, config)
    assert not is_positive(20, box, 65, 128, config)


@pytest.mark.parametrize("rule", ["fcos", "torchvision"])
def test_location_exactly_on_the_center_region(rule: str) -> None:
    config = TargetConfig(rule=rule, center_radius=1.5)  # 12 px at stride 8
    assert not is_positive(20, [2.0, 10.0, 62.0, 30.0], 0, 64, config)  # center x 32
    assert is_positive(20, [1.9, 10.0, 61.9, 30.0], 0, 64, config)
    assert not is_positive(20, [10.0, 2.0, 30.0, 62.0], 0, 64, config)  # center y 32
    assert not is_positive(20, [20.0, 10.0, 30.0, 30.0], 0, 64, config)  # on the left side
    assert not is_positive(20, [10.0, 10.0, 20.0, 30.0], 0, 64, config)  # on the right side


def test_memory_does_not_grow_with_the_objects() -> None:
    """No tensor of locations x objects: with 300 objects nothing but the result is allocated."""
    objects, images = 300, 2
    shapes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    bounds = [(-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8)]
    levels = [
        ops.TargetLevel(ops.LocationGrid(*shape, 8 << i, 8 << i, 4 << i), 8 << i, *bounds[i])
        for i, shape in enumerate(shapes)
    ]
    torch.manual_seed(0)
    corner, size = torch.rand(images, objects, 2) * 700, torch.rand(images, objects, 2) * 300 + 4
    targets = [
        ops.Targets(torch.cat([a, a + b], 1), torch.zeros(objects, dtype=torch.int64))
        for a, b in zip(corner, size, strict=True)
    ]
    with torch.profiler.profile(profile_memory=True) as profile:
        found = ops.fcos_targets(levels, targets, NUM_CLASSES, TargetConfig())
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    locations = images * sum(height * width for height, width in shapes)
    assert (found.gt_index >= 0).sum() > 1000
    result = locations * (8 + 4 * 4 + 8)  # labels, reg, gt_index
    inputs = images * objects * (4 * 4 + 8)  # boxes and labels in one piece
    assert max(sizes) == locations * 16
    assert sum(size for size in sizes if size > 0) <= result + inputs + 4096
