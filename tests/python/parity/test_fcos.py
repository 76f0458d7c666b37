# SPDX-License-Identifier: Apache-2.0
"""FCOS against recorded outputs of the original implementations (tests/data/parity)."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import detweights
import numpy as np
import numpy.typing as npt
import pytest
import torch

import instseg
from instseg import ops
from instseg.importers import convert_state

DATA = Path(__file__).parents[2] / "data" / "parity"
FEATURE, BOX, SCORE, LOSS, GRADIENT = 1e-4, 0.05, 1e-4, 1e-5, 1e-3
SCORE_NOISE = 1.5e-6  # the originals' own float32 error: closer scores have no defined order
SAMPLE = (
    5e-3  # single gradient values, of the tensor's norm: the originals' own sums over a map cancel to 1e-2
)
NO_GRADIENT = 1e-6  # norms below are rounding noise of a mathematically zero gradient

Array = npt.NDArray[Any]


@dataclass
class Case:
    name: str
    train: dict[str, Any] = field(default_factory=dict)  # configuration the training record was made with
    label_offset: int = 0
    losses: tuple[str, str, str] = ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr")
    resized: bool = False  # the original resizes to 240/400 itself and returns boxes of the input image

    @property
    def short_long(self) -> tuple[int, int] | None:
        return (240, 400) if self.resized else None

    def record(self, part: str) -> dict[str, Array]:
        with np.load(DATA / self.name / f"{part}.npz") as arrays:
            return dict(arrays)

    def batch(self, names: str, config: instseg.ModelConfig, rescale: bool = True) -> instseg.ImageBatch:
        images = [image(name) for name in names]
        if self.resized:
            config.input.short_side, config.input.long_side = 240, 400
            return ops.preprocess(images, config.input)
        sizes = [out_size(name) if rescale else image(name).shape[:2] for name in names]
        return ops.make_batch(images, config.input, sizes)

    def targets(self, batch: instseg.ImageBatch) -> list[dict[str, Array]]:
        """Ground truth in network pixels."""
        found = []
        for name, (height, width), original in zip(
            "ab", batch.sizes, (image("a").shape, image("b").shape), strict=True
        ):
            # In this order the factors round as in the original.
            scale = np.float32([width / original[1], height / original[0]] * 2)
            boxes = inputs()[f"gt_{name}_boxes"].astype(np.float32)
            boxes = boxes * scale if self.resized else boxes
            found.append({"boxes": boxes, "labels": inputs()[f"gt_{name}_classes"] + self.label_offset})
        return found


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


@cache
def inputs() -> dict[str, Array]:
    with np.load(DATA / "inputs.npz") as arrays:
        return dict(arrays)


def image(name: str) -> Array:
    """RGB; the file has BGR."""
    return np.ascontiguousarray(inputs()[f"image_{name}"][..., ::-1])


def out_size(name: str) -> tuple[int, int]:
    height, width = inputs()["out_hw_b"] if name == "b" else image(name).shape[:2]
    return int(height), int(width)


@cache
def build(index: int, training: bool = False) -> tuple[instseg.Model, dict[str, str]]:
    """The case's model with weights from names, and official name -> our name."""
    case = CASES[index]
    manifest = json.loads((DATA / case.name / "manifest.json").read_text())
    state = {
        name: torch.from_numpy(detweights.fill(name, shape, manifest["tweaks"]))
        for name, shape, _ in manifest["state_dict"]
    }
    model, report = convert_state(state, case.name, case.train if training else None)
    assert report.ok, str(report)
    return model, report.matched


def assert_sampled(ours: torch.Tensor, record: dict[str, Array], key: str) -> None:
    """A recorded tensor, in full or as shape, mean / std / absmax, and samples."""
    ours = ours.detach().double()
    if key in record:
        expected = torch.from_numpy(record[key]).double()
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() <= FEATURE * expected.abs().max(), key
        return
    assert list(ours.shape) == record[f"{key}/shape"].tolist(), key
    mean, std, absmax = record[f"{key}/stats"]
    samples = ours.flatten()[torch.from_numpy(record[f"{key}/idx"])]
    error = (samples - torch.from_numpy(record[f"{key}/val"]).double()).abs().max()
    assert error <= FEATURE * absmax, f"{key}: {error:.3g} of {absmax:.3g}"
    assert abs(ours.mean() - mean) <= FEATURE * absmax, key
    assert abs(ours.std(correction=0) - std) <= FEATURE * absmax, key
    assert abs(ours.abs().max() - absmax) <= FEATURE * absmax, key


def assert_outputs(case: Case, named: dict[str, torch.Tensor], record: dict[str, Array]) -> None:
    """Input, backbone, pyramid and head outputs."""
    levels = [name for name in named if name.startswith("p")]
    taps, features = ("body/{}", "feat/{}") if case.resized else ("bottom_up/res{}", "feat/{}")
    assert_sampled(named["input"], record, "input_tensor")
    for i in (3, 4, 5):
        assert_sampled(named[f"res{i}"], record, taps.format(i - 3 if case.resized else i))
    for i, level in enumerate(levels):
        assert_sampled(named[level], record, features.format(i if case.resized and i < 3 else level))
    if case.resized:
        for ours, theirs in (("logits", "cls_logits"), ("reg", "bbox_regression"), ("ctr", "bbox_ctrness")):
            flat = [named[f"{ours}.{level}"].permute(0, 2, 3, 1).flatten(1, 2) for level in levels]
            assert_sampled(torch.cat(flat, 1), record, f"head/{theirs}")
        return
    for i, level in enumerate(levels):
        for key in ("logits", "reg", "ctr"):
            assert_sampled(named[f"{key}.{level}"], record, f"head/{key}/{i}")


def assert_detections(
    found: instseg.Instances, record: dict[str, Array], prefix: str = "", scale: tuple[float, float] = (1, 1)
) -> None:
    """Count, order, labels, boxes (times `scale` x, y) and scores."""
    boxes = record[f"{prefix}out/boxes"]
    labels = record.get(f"{prefix}out/classes", record.get(f"{prefix}out/labels"))
    scores = record[f"{prefix}out/scores"]
    assert labels is not None and len(found) == len(boxes) > 0
    ours = found.boxes.numpy() * np.float32([*scale, *scale])
    order = np.arange(len(boxes))
    for i in range(1, len(boxes)):
        tied = scores[i - 1] - scores[i] <= SCORE_NOISE
        if tied and np.abs(ours[i - 1] - boxes[i]).max() < np.abs(ours[i - 1] - boxes[i - 1]).max():
            order[[i - 1, i]] = order[[i, i - 1]]
    assert found.labels.numpy()[order].tolist() == labels.tolist()
    assert np.abs(ours[order] - boxes).max() <= BOX
    assert np.abs(found.scores.numpy() - scores).max() <= SCORE


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
    case, (model, _) = CASES[index], build(index)
    batch = case.batch(name, model.config)
    assert_outputs(case, model.intermediates(batch), case.record(name))


@parametrize_cases
@pytest.mark.parametrize("names", ["a", "b", "ab"])
def test_detections(index: int, names: str) -> None:
    case, (model, _) = CASES[index], build(index)
    record = case.record(names)
    found = model.detect(case.batch(names, model.config))
    for name, instances in zip(names, found, strict=True):
        assert_detections(instances, record, f"{name}/" if len(names) > 1 else "")


@pytest.mark.parametrize("index", [0, 1])  # the third original records no boxes at network size
def test_boxes_before_rescaling(index: int) -> None:
    case, (model, _) = CASES[index], build(index)
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
    case, (model, _) = CASES[index], build(index)
    height, width = image(name).shape[:2]
    short, long = case.short_long or (min(height, width), max(height, width))
    (found,) = instseg.Predictor(model, short_side=short, long_side=long)([image(name)])
    out_height, out_width = (height, width) if case.resized else out_size(name)
    assert_detections(found, case.record(name), scale=(out_width / width, out_height / height))


def test_torchvision_at_its_default_size() -> None:
    model, _ = build(2)
    record = CASES[2].record("default800")
    batch = ops.preprocess([image("b")], model.config.input)
    assert_outputs(CASES[2], model.intermediates(batch), record)
    assert_detections(model.detect(batch)[0], record)


# ---- One training step on the batch [a, b] ----


@parametrize_cases
def test_training_outputs(index: int) -> None:
    case, (model, _) = CASES[index], build(index, training=True)
    model = copy.deepcopy(model).train()  # normalisation statistics change
    assert_outputs(case, model.intermediates(case.batch("ab", model.config)), case.record("train"))


@parametrize_cases
def test_losses_and_gradients(index: int) -> None:
    case, (model, names) = CASES[index], build(index, training=True)
    model = copy.deepcopy(model).train()
    record = case.record("train")
    batch = case.batch("ab", model.config)
    losses = model(batch, case.targets(batch))
    assert list(record["loss/names"]) == list(case.losses)
    for (name, value), expected in zip(losses.items(), record["loss/values"], strict=True):
        assert value.item() == pytest.approx(expected, rel=LOSS), name

    torch.stack([value.reshape(()) for value in losses.values()]).sum().backward()
    gradients = {
        name: parameter.grad.double()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    manifest = json.loads((DATA / case.name / "manifest.json").read_text())
    assert len(gradients) == manifest["grad_info"]["trainable"]
    total = sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5
    assert total == pytest.approx(float(record["grad/total_norm"]), rel=GRADIENT)
    for name, norm, indices, values in zip(
        *(record[f"grad/{key}"] for key in ("names", "norms", "idx", "val")), strict=True
    ):
        gradient = gradients[names[name]]
        if norm < NO_GRADIENT:
            assert gradient.norm() < 10 * NO_GRADIENT, name
            continue
        assert float(gradient.norm()) == pytest.approx(norm, rel=GRADIENT), name
        real = indices >= 0
        samples = gradient.flatten().numpy()[indices[real]]
        assert np.abs(samples - values[real]).max() <= SAMPLE * norm, name

    state = model.state_dict()
    after = [key for key in record if key.startswith("bn_after/")]
    assert bool(after) == (model.config.backbone.norm == "bn")
    for key in after:
        ours = state[names[key.removeprefix("bn_after/")]].double().numpy()
        assert np.abs(ours - record[key]).max() <= FEATURE * np.abs(record[key]).max(), key


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
    case, (model, _) = CASES[index], build(index, training=True)
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
