# SPDX-License-Identifier: Apache-2.0
"""SOLO, Decoupled SOLO and SOLOv2 against recorded outputs of the original implementations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded import (
    LOSS,
    Array,
    Case,
    assert_edges,
    assert_features,
    assert_gradients,
    assert_sampled,
    build,
    image,
    inputs,
    order_of,
    out_size,
    unpacked,
)

import instseg
from instseg import MaskTargets, ops

SCORE = 5e-4  # one pixel at 0.5 changes the area that a score is divided by: the originals' own noise
LEVELS = range(5)
CANVAS = (192, 256)  # of the padded batch

# Boxes of the record are used as they are, also by the repository that otherwise has inclusive ones.
GIVEN_BOXES = {"solo": {"inclusive_boxes": False}}
CASES = [
    Case(name, GIVEN_BOXES, preset=preset)
    for name, preset in (
        ("solo_r50_1x", "solo_R50_1x"),
        ("decoupled_solo_r50_1x", "decoupled_solo_R50_1x"),
        ("decoupled_solo_light_r50_3x", "decoupled_solo_light_R50_3x"),
        ("solov2_r50_1x", "solov2_R50_1x"),
        ("solov2_light_448_r50_3x", "solov2_light_448_R50_3x"),
        ("adet_solov2_R50_3x", "adet_solov2_R50_3x"),
    )
]
LOSSES = {"loss_cate": "loss_cls", "loss_ins": "loss_mask"}
OUTPUTS = {"ins": "mask", "ins_x": "x", "ins_y": "y", "kernel": "kernel"}
of_solo = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
of_images = pytest.mark.parametrize("name", ["a", "b"])
without_port = pytest.mark.parametrize("case", CASES[:-1], ids=[case.name for case in CASES[:-1]])


def is_port(case: Case) -> bool:
    """The detectron2 port records raw outputs only, and counts classes from 0."""
    return case.name.startswith("adet")


def kinds(case: Case) -> list[str]:
    """Recorded names of what the masks are made of."""
    if "solov2" in case.name:
        return ["kernel"]
    return ["ins_x", "ins_y"] if case.name.startswith("decoupled") else ["ins"]


def assert_raw(case: Case, named: dict[str, torch.Tensor], record: dict[str, Array], prefix: str) -> None:
    """Input, backbone, pyramid and the heads' logits, recorded under `prefix`."""
    assert assert_features(named, record, first_tap=2) == [f"p{level}" for level in range(2, 7)]
    for level in LEVELS:
        assert_sampled(named[f"cls.{level}"], record, f"{prefix}/cate/{level}")
        for kind in kinds(case):
            assert_sampled(named[f"{OUTPUTS[kind]}.{level}"], record, f"{prefix}/{kind}/{level}")
    if "solov2" in case.name:
        assert_sampled(named["mask_features"], record, "mask_pred" if is_port(case) else "mask_feat")


def assert_found(found: instseg.Instances, record: dict[str, Array], prefix: str = "") -> None:
    """Count, order, labels, scores, masks, and boxes around them."""
    scores, labels = record[f"{prefix}out/scores"], record[f"{prefix}out/classes"]
    expected = unpacked(record, f"{prefix}out/masks").astype(bool)
    assert len(found) == len(scores) > 0
    ours = found.bitmaps().numpy().astype(bool)
    assert ours.shape == expected.shape
    order = order_of(scores, lambda i, j: float((ours[i] != expected[j]).sum()), tie=SCORE)
    assert found.labels.numpy()[order].tolist() == labels.tolist()
    assert np.abs(found.scores.numpy()[order] - scores).max() <= SCORE
    assert (np.diff(found.scores.numpy()) <= 0).all()
    assert_edges(expected, ours[order] != expected)
    for mask, box in zip(ours, found.boxes.tolist(), strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0] * 4
        assert box == [float(value) for value in tight]


# ---- Inference ----


@of_solo
@of_images
def test_outputs(case: Case, name: str) -> None:
    model, _ = build(case)
    named = model.intermediates(case.batch(name, model.config))
    assert_raw(case, named, case.record(name), "head" if is_port(case) else "head_raw")


@without_port
@of_images
def test_processed_outputs(case: Case, name: str) -> None:
    """Ours processed here: category probabilities after points NMS, mask probabilities at stride 4."""
    model, _ = build(case)
    named = model.intermediates(case.batch(name, model.config))
    record = case.record(name)
    size = named["p2"].shape[2:]
    for level in LEVELS:
        probabilities = named[f"cls.{level}"].sigmoid()
        highest = F.max_pool2d(probabilities, 2, stride=1, padding=1)[..., :-1, :-1]
        kept = torch.where(probabilities == highest, probabilities, 0)
        assert_sampled(kept.permute(0, 2, 3, 1), record, f"head/cate/{level}")
        for kind in kinds(case):
            maps = named[f"{OUTPUTS[kind]}.{level}"]
            if kind != "kernel":
                maps = F.interpolate(maps.sigmoid(), size, mode="bilinear", align_corners=False)
            assert_sampled(maps, record, f"head/{kind}/{level}")


@of_solo
@pytest.mark.parametrize("names", ["a", "b", "ab"])
def test_detections(case: Case, names: str) -> None:
    model, _ = build(case)
    record = case.record(names)
    found = model.detect(case.batch(names, model.config))
    for name, instances in zip(names, found, strict=True):
        assert_found(instances, record, f"{name}/" if len(names) > 1 else "")
        assert instances.masks is not None and instances.masks.enlarge == "half_pixel"


@of_solo
@of_images
def test_lowered_predictor(case: Case, name: str) -> None:
    model, _ = build(case)
    found = instseg.Predictor(model)(image(name), size=None, output_size=out_size(name))
    assert_found(found, case.record(name))


@of_solo
def test_run_lengths_are_those_of_the_bitmaps(case: Case) -> None:
    from pycocotools import mask as coco

    model, _ = build(case)
    (found,) = model.detect(case.batch("b", model.config))
    bitmaps = found.bitmaps().numpy()
    decoded = coco.decode([{**rle, "counts": rle["counts"].encode()} for rle in found.rle()])
    assert np.array_equal(decoded.transpose(2, 0, 1), bitmaps)


# ---- One training step on the batch [a, b] ----


def objects(name: str) -> dict[str, object]:
    return {
        "boxes": inputs()[f"gt_{name}_boxes"].astype(np.float32),
        "labels": inputs()[f"gt_{name}_classes"],
        "masks": MaskTargets.from_bitmaps(torch.from_numpy(inputs()[f"gt_{name}_masks"])),
    }


@of_solo
def test_training_outputs(case: Case) -> None:
    model, _ = build(case, training=True)
    model = copy.deepcopy(model).train()
    assert_raw(case, model.intermediates(case.batch("ab", model.config)), case.record("train"), "head")


@of_solo
def test_losses_and_gradients(case: Case) -> None:
    model, names = build(case, training=True)
    model = copy.deepcopy(model).train()
    record = case.record("train")
    losses = model(case.batch("ab", model.config), [objects("a"), objects("b")])
    recorded = dict(zip(record["loss/names"].tolist(), record["loss/values"].tolist(), strict=True))
    assert sorted(LOSSES[name] for name in recorded) == sorted(losses)
    for name, value in recorded.items():
        assert losses[LOSSES[name]].item() == pytest.approx(value, rel=LOSS), name
    torch.stack([value.reshape(()) for value in losses.values()]).sum().backward()
    assert_gradients(case, model, names, record)


def recorded_cells(record: dict[str, Array], name: str, level: int) -> list[int]:
    """Cell of each mask, row * S + column."""
    size = len(record[f"target/{name}/cate/{level}"])
    pairs = record.get(f"target/{name}/ins_ind_yx/{level}")
    if pairs is not None:
        return [row * size + column for row, column in pairs.reshape(-1, 2).tolist()]
    order = record.get(f"target/{name}/grid_order/{level}")
    cells: list[int] = (record[f"target/{name}/ins_ind/{level}"] if order is None else order).tolist()
    return cells


@of_solo
def test_targets(case: Case) -> None:
    model, _ = build(case, training=True)
    config = model.config
    record = case.record("train")
    given = [
        ops.Targets(
            torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"]).long(), target["masks"]
        )
        for target in (objects("a"), objects("b"))
    ]
    batch = case.batch("ab", config)
    found = ops.solo_targets(given, batch.sizes, CANVAS, config.num_classes, config.solo)
    assert len(found) == len(LEVELS)
    positives = 0
    for level, ours in enumerate(found):
        assert (ours.images.diff() >= 0).all()
        for i, name in enumerate("ab"):
            labels = ours.labels[i].numpy()
            background = labels == config.num_classes
            if not is_port(case):
                labels = np.where(background, 0, labels + 1)
            assert np.array_equal(labels, record[f"target/{name}/cate/{level}"])
            here = ours.images == i
            cells = ours.cells[here].tolist()
            assert cells == recorded_cells(record, name, level)
            inside = np.zeros(background.size, bool)
            inside[cells] = True
            assert np.array_equal(inside.reshape(background.shape), ~background)
            masks = ours.masks[ours.mask_of[here]].numpy()
            assert np.array_equal(masks, unpacked(record, f"target/{name}/ins/{level}"))
            positives += len(cells)
    assert positives > 0
