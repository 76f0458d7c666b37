# SPDX-License-Identifier: Apache-2.0
"""BlendMask, CondInst and BoxInst against recorded outputs of the original implementations."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from recorded import (
    LOSS,
    Array,
    Case,
    assert_detections,
    assert_edges,
    assert_gradients,
    assert_outputs,
    assert_sampled,
    build,
    image,
    inputs,
    out_size,
    unpacked,
)

import instseg
from instseg import MaskTargets, ops

PROBABILITY = 1e-4

FCOS = ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr")
BLENDMASK = ("loss_basis_sem", "loss_mask", *FCOS)
CASES = [
    Case("condinst_MS_R_50_1x", losses=(*FCOS, "loss_mask")),
    Case("condinst_MS_R_50_3x_sem", losses=("loss_sem", *FCOS, "loss_mask")),
    Case("boxinst_MS_R_50_1x", losses=(*FCOS, "loss_prj", "loss_pairwise")),
    Case("blendmask_R_50_1x", losses=BLENDMASK),
    Case("blendmask_550_R_50_1x", losses=BLENDMASK),
    Case("blendmask_RT_R_50_4x_syncbn_shtw", losses=BLENDMASK),
]
OURS = {
    "loss_cls": "loss_fcos_cls",
    "loss_box": "loss_fcos_loc",
    "loss_centerness": "loss_fcos_ctr",
    "loss_mask": "loss_mask",
    "loss_projection": "loss_prj",
    "loss_pairwise": "loss_pairwise",
}
of_masks = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
of_condinst = pytest.mark.parametrize("case", CASES[:3], ids=[case.name for case in CASES[:3]])
of_blendmask = pytest.mark.parametrize("case", CASES[3:], ids=[case.name for case in CASES[3:]])


def is_blendmask(case: Case) -> bool:
    return case.name.startswith("blendmask")


def assert_masks(ours: Array, record: dict[str, Array], prefix: str = "") -> None:
    expected = unpacked(record, f"{prefix}out/masks")
    assert ours.shape == expected.shape and len(ours) > 0
    wrong = ours != expected
    if f"{prefix}out/masks_tie/bits" in record:
        wrong &= unpacked(record, f"{prefix}out/masks_tie") == 0
    assert_edges(expected, wrong)


def pixels(name: str) -> Array:
    """Image a, b, or a mirrored (f): the original cannot batch images of different sizes for CondInst."""
    return np.ascontiguousarray(image("a")[:, ::-1]) if name == "f" else image(name)


def batch_of(names: str, config: instseg.ModelConfig) -> instseg.ImageBatch:
    sizes = [pixels(name).shape[:2] if name == "f" else out_size(name) for name in names]
    return ops.make_batch([pixels(name) for name in names], config.input, sizes)


@cache
def polygons(name: str) -> MaskTargets:
    """Ground-truth masks of an image."""
    record = inputs()
    flat, lengths, owners = (record[f"gt_{name}_poly_{key}"] for key in ("flat", "len", "inst"))
    parts: list[list[list[float]]] = [[] for _ in record[f"gt_{name}_classes"]]
    start = 0
    for length, owner in zip(lengths, owners, strict=True):
        parts[owner].append(flat[start : start + length].astype(float).tolist())
        start += length
    return MaskTargets.from_coco(parts, image(name).shape[:2])


def targets(case: Case) -> list[dict[str, object]]:
    found = []
    for name in "ab":
        target: dict[str, object] = {
            "boxes": inputs()[f"gt_{name}_boxes"].astype(np.float32),
            "labels": inputs()[f"gt_{name}_classes"],
        }
        if not case.name.startswith("boxinst"):  # boxes are all it may see
            target["masks"] = polygons(name)
        if is_blendmask(case):
            target["semantic"] = inputs()[f"gt_{name}_basis_sem"].astype(np.int64)
        found.append(target)
    return found


# ---- Inference ----


@of_masks
@pytest.mark.parametrize("name", ["a", "b"])
def test_outputs(case: Case, name: str) -> None:
    model, _ = build(case)
    named = model.intermediates(batch_of(name, model.config))
    record = case.record(name)
    assert_outputs(case, named, record)
    ours, theirs = ("bases", "bases") if is_blendmask(case) else ("mask_features", "mask_feats")
    assert_sampled(named[ours], record, theirs)


@of_masks
@pytest.mark.parametrize("name", ["a", "b"])
def test_detections(case: Case, name: str) -> None:
    model, _ = build(case)
    record = case.record(name)
    (found,) = model.detect(batch_of(name, model.config))
    assert_detections(found, record)
    assert_masks(found.bitmaps().numpy(), record)


@of_masks
def test_probabilities(case: Case) -> None:
    model, _ = build(case)
    record = case.record("a")
    (found,) = model.detect(batch_of("a", model.config))
    key = "out/raw_masks56" if is_blendmask(case) else "out/pred_global_masks"
    ours = found.masks.probabilities[:, None]
    assert_sampled(ours, record, key)
    first = record[f"{key}_first4"]
    assert np.abs(ours[: len(first)].reshape(first.shape).numpy() - first).max() <= PROBABILITY


@of_masks
def test_batches(case: Case) -> None:
    model, _ = build(case)
    names = "ab" if is_blendmask(case) else "af"
    record = case.record(names)
    for name, found in zip(names, model.detect(batch_of(names, model.config)), strict=True):
        assert_detections(found, record, f"{name}/")
        assert_masks(found.bitmaps().numpy(), record, f"{name}/")


@of_masks
@pytest.mark.parametrize("name", ["a", "b"])
def test_lowered_predictor(case: Case, name: str) -> None:
    model, _ = build(case)
    record = case.record(name)
    found = instseg.Predictor(model)(image(name), size=None, output_size=out_size(name))
    assert_detections(found, record)
    assert_masks(found.bitmaps().numpy(), record)


@of_masks
def test_run_lengths_are_those_of_the_bitmaps(case: Case) -> None:
    from pycocotools import mask as coco

    model, _ = build(case)
    (found,) = model.detect(batch_of("b", model.config))
    bitmaps = found.bitmaps().numpy()
    decoded = coco.decode([{**rle, "counts": rle["counts"].encode()} for rle in found.rle()])
    assert np.array_equal(decoded.transpose(2, 0, 1), bitmaps)
    assert found.area().tolist() == bitmaps.reshape(len(bitmaps), -1).sum(1).tolist()


# ---- One training step on the batch [a, b] ----


@of_masks
def test_losses_and_gradients(case: Case) -> None:
    model, names = build(case, training=True)
    model = copy.deepcopy(model).train()
    record = case.record("train")
    losses = model(ops.make_batch([image("a"), image("b")], model.config.input), targets(case))
    recorded = dict(zip(record["loss/names"].tolist(), record["loss/values"].tolist(), strict=True))
    assert sorted(recorded) == sorted(case.losses)
    semantic = "loss_basis_sem" if is_blendmask(case) else "loss_sem"
    found = {OURS.get(name, semantic): value.item() for name, value in losses.items()}
    assert sorted(found) == sorted(recorded)
    for name, value in recorded.items():
        assert found[name] == pytest.approx(value, rel=LOSS), name
    torch.stack([value.reshape(()) for value in losses.values()]).sum().backward()
    assert_gradients(case, model, names, record)


@of_masks
def test_training_outputs(case: Case) -> None:
    model, _ = build(case, training=True)
    model = copy.deepcopy(model).train()  # normalisation statistics change
    named = model.intermediates(ops.make_batch([image("a"), image("b")], model.config.input))
    record = case.record("train")
    assert_outputs(case, named, record)
    ours, theirs = ("bases", "bases") if is_blendmask(case) else ("mask_features", "mask_feats")
    assert_sampled(named[ours], record, theirs)


@pytest.mark.parametrize("case", CASES[:2], ids=[case.name for case in CASES[:2]])
@pytest.mark.parametrize("name", ["a", "b"])
def test_rasterised_targets(case: Case, name: str) -> None:
    record = case.record("train")
    canvas = (192, 256)  # of the padded batch
    full = ops.rasterize(polygons(name), canvas, 1, 0)
    assert np.array_equal(full.sampled.numpy(), unpacked(record, f"target/bitmasks_full_{name}"))
    sampled = ops.rasterize(polygons(name), canvas, 4, 2)
    assert np.array_equal(sampled.sampled.numpy(), unpacked(record, f"target/bitmasks_{name}"))


@of_blendmask
@pytest.mark.parametrize("name", ["a", "b"])
def test_targets_in_boxes(case: Case, name: str) -> None:
    boxes = torch.from_numpy(inputs()[f"gt_{name}_boxes"].astype(np.float32))
    ours = ops.rasterize_in_boxes(polygons(name), boxes, 56).numpy()
    assert np.array_equal(ours, unpacked(case.record("train"), f"target/masks56_{name}"))


@of_masks
def test_assignment(case: Case) -> None:
    """Labels and objects of every location; CondInst and BoxInst sample around the centroid of the mask."""
    model, _ = build(case, training=True)
    config = model.config
    record = case.record("train")
    shapes, strides, bounds = [], [], [-1, *config.targets.sizes_of_interest, 1e8]
    for level in range(config.neck.min_level, config.neck.max_level + 1):
        strides.append(2**level)
        shapes.append((-(-192 // 2**level), -(-256 // 2**level)))
    levels = [
        ops.TargetLevel(ops.LocationGrid(h, w, s, s, s // 2), s, bounds[i], bounds[i + 1])
        for i, ((h, w), s) in enumerate(zip(shapes, strides, strict=True))
    ]
    given = [
        ops.Targets(torch.as_tensor(t["boxes"]), torch.as_tensor(t["labels"]).long()) for t in targets(case)
    ]
    centers = []
    if not is_blendmask(case):
        centers = [torch.from_numpy(centroids(unpacked(record, f"target/bitmasks_full_{n}"))) for n in "ab"]
    ours = ops.fcos_targets(levels, given, config.num_classes, config.targets, centers)
    sizes = [2 * h * w for h, w in shapes]
    for i, (labels, gt_index) in enumerate(
        zip(ours.labels.split(sizes), ours.gt_index.split(sizes), strict=True)
    ):
        assert labels.tolist() == record[f"target/labels/{i}"].tolist()
        found = (gt_index >= 0).numpy()
        assert (gt_index.numpy()[found] == record[f"target/gt_inds/{i}"][found]).all()


def centroids(bitmaps: Array) -> Array:
    total = np.maximum(bitmaps.sum((1, 2)), 1)
    x = (bitmaps.sum(1) * np.arange(bitmaps.shape[2])).sum(1) / total
    y = (bitmaps.sum(2) * np.arange(bitmaps.shape[1])).sum(1) / total
    return np.stack([x, y], 1).astype(np.float32)
