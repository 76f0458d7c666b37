# SPDX-License-Identifier: Apache-2.0
"""FCOS against recorded outputs of the original implementations (tests/data/parity)."""

from __future__ import annotations

import copy
import json

import detweights
import numpy as np
import pytest
import torch
from recorded import (
    BOX,
    DATA,
    LOSS,
    SCORE,
    Case,
    assert_detections,
    assert_gradients,
    assert_outputs,
    build,
    image,
    out_size,
)

import instseg
from instseg import ops

CASES = [
    Case("fcos_R_50_1x"),
    Case("fcos_RT_MS_R_50_4x_syncbn"),
    Case(
        "torchvision_fcos_resnet50_fpn",
        {"backbone": {"norm": "bn", "freeze": 0}},
        1,
        ("classification", "bbox_regression", "bbox_ctrness"),
        True,
    ),
]


parametrize_cases = pytest.mark.parametrize("index", range(len(CASES)), ids=[case.name for case in CASES])


def test_weights_from_names() -> None:
    for entry in json.loads((DATA / "detweights_check.json").read_text()):
        values = detweights.fill(entry["name"], entry["shape"])
        assert values.dtype == entry["dtype"]
        assert values.astype(np.float64).sum() == pytest.approx(entry["sum"], rel=1e-12)
        assert values.flatten()[: len(entry["first"])].tolist() == entry["first"]


@parametrize_cases
@pytest.mark.parametrize("name", ["a", "b"])
def test_outputs(index: int, name: str) -> None:
    case, (model, _) = CASES[index], build(CASES[index])
    batch = case.batch(name, model.config)
    assert_outputs(case, model.intermediates(batch), case.record(name))


@parametrize_cases
@pytest.mark.parametrize("names", ["a", "b", "ab"])
def test_detections(index: int, names: str) -> None:
    case, (model, _) = CASES[index], build(CASES[index])
    record = case.record(names)
    found = model.detect(case.batch(names, model.config))
    for name, instances in zip(names, found, strict=True):
        assert_detections(instances, record, f"{name}/" if len(names) > 1 else "")


@pytest.mark.parametrize("index", [0, 1])  # the third original records no boxes at network size
def test_boxes_before_rescaling(index: int) -> None:
    case, (model, _) = CASES[index], build(CASES[index])
    record = case.record("b")
    (found,) = model.detect(case.batch("b", model.config, rescale=False))
    # The record is not clipped to the image.
    height, width = image("b").shape[:2]
    expected = record["prop/boxes"].clip(0, [width, height] * 2)
    assert np.abs(found.boxes.numpy() - expected).max() <= BOX
    assert np.abs(found.scores.numpy() - record["prop/scores"]).max() <= SCORE


@parametrize_cases
@pytest.mark.parametrize("name", ["a", "b"])
def test_lowered_predictor(index: int, name: str) -> None:
    case, (model, _) = CASES[index], build(CASES[index])
    height, width = image(name).shape[:2]
    short, long = case.short_long or (min(height, width), max(height, width))
    (found,) = instseg.Predictor(model, short_side=short, long_side=long)([image(name)])
    out_height, out_width = (height, width) if case.resized else out_size(name)
    assert_detections(found, case.record(name), scale=(out_width / width, out_height / height))


def test_torchvision_at_its_default_size() -> None:
    model, _ = build(CASES[2])
    record = CASES[2].record("default800")
    batch = ops.preprocess([image("b")], model.config.input)
    assert_outputs(CASES[2], model.intermediates(batch), record)
    assert_detections(model.detect(batch)[0], record)


# ---- One training step on the batch [a, b] ----


@parametrize_cases
def test_training_outputs(index: int) -> None:
    case, (model, _) = CASES[index], build(CASES[index], training=True)
    model = copy.deepcopy(model).train()  # normalisation statistics change
    assert_outputs(case, model.intermediates(case.batch("ab", model.config)), case.record("train"))


@parametrize_cases
def test_losses_and_gradients(index: int) -> None:
    case, (model, names) = CASES[index], build(CASES[index], training=True)
    model = copy.deepcopy(model).train()
    record = case.record("train")
    batch = case.batch("ab", model.config)
    losses = model(batch, case.targets(batch))
    assert list(record["loss/names"]) == list(case.losses)
    for (name, value), expected in zip(losses.items(), record["loss/values"], strict=True):
        assert value.item() == pytest.approx(expected, rel=LOSS), name

    torch.stack([value.reshape(()) for value in losses.values()]).sum().backward()
    assert_gradients(case, model, names, record)


def assigned(case: Case, model: instseg.Model) -> tuple[list[tuple[int, int]], ops.FcosTargets]:
    """Level sizes and the assignment of the batch [a, b] by the op, levels built by hand."""
    config = model.config
    batch = case.batch("ab", config)
    height, width = batch.pixels.shape[2:]
    strides = [2**level for level in range(config.neck.min_level, config.neck.max_level + 1)]
    shapes = [(height // s, width // s) if s <= 32 else (-(-height // s), -(-width // s)) for s in strides]
    levels = []
    for i, (stride, (h, w)) in enumerate(zip(strides, shapes, strict=True)):
        if case.resized:
            bounds = (0.0 if i == 0 else 4.0 * stride, 1e8 if i + 1 == len(strides) else 8.0 * stride)
            grid = ops.LocationGrid(h, w, width // w, height // h, 0)
        else:
            sizes = [-1, *config.targets.sizes_of_interest, 1e8]
            bounds = (sizes[i], sizes[i + 1])
            grid = ops.LocationGrid(h, w, stride, stride, stride // 2)
        levels.append(ops.TargetLevel(grid, stride, *bounds))
    targets = [
        ops.Targets(torch.from_numpy(target["boxes"]), torch.from_numpy(target["labels"]).long())
        for target in case.targets(batch)
    ]
    return shapes, ops.fcos_targets(levels, targets, config.num_classes, config.targets)


@parametrize_cases
def test_targets(index: int) -> None:
    case, (model, _) = CASES[index], build(CASES[index], training=True)
    record = case.record("train")
    shapes, ours = assigned(case, model)
    sizes = [2 * h * w for h, w in shapes]
    per_level = [tensor.split(sizes) for tensor in (ours.labels, ours.reg, ours.gt_index)]
    if case.resized:
        first = len(record["target/resized_boxes_a"])
        for i, name in enumerate("ab"):
            index_of = torch.cat([level.view(2, -1)[i] for level in per_level[2]])
            index_of = torch.where(index_of >= 0, index_of - i * first, -1)
            assert index_of.tolist() == record[f"target/matched_idxs_{name}"].tolist()
        return
    positives = 0
    for i, (labels, reg, gt_index) in enumerate(zip(*per_level, strict=True)):
        assert labels.tolist() == record[f"target/labels/{i}"].tolist()
        found = (labels != model.config.num_classes).numpy()
        assert ((gt_index >= 0).numpy() == found).all()
        assert (gt_index.numpy()[found] == record[f"target/gt_inds/{i}"][found]).all()
        assert np.array_equal(reg.numpy()[found], record[f"target/reg/{i}"][found])
        positives += int(found.sum())
    assert positives == len(record["pos/pos_inds"])
    # Positions in `pos` run over levels, then images, like ours.
    where = torch.nonzero(ours.gt_index >= 0).squeeze(1)
    assert where.tolist() == record["pos/pos_inds"].tolist()
    centerness = ops.centerness_of(ours.reg[where]).numpy()
    assert np.abs(centerness - record["pos/gt_ctrs"]).max() <= 1e-6
