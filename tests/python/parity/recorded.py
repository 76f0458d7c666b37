# SPDX-License-Identifier: Apache-2.0
"""Recorded outputs of the original implementations, and how ours are compared with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
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
MASK = 1e-3  # share of pixels that may differ, all of them within one pixel of an edge
FEATURE, BOX, SCORE, LOSS, GRADIENT = 1e-4, 0.05, 1e-4, 1e-5, 1e-3
SCORE_NOISE = 1.5e-6  # the originals' own float32 error: closer scores have no defined order
SAMPLE = (
    5e-3  # single gradient values, of the tensor's norm: the originals' own sums over a map cancel to 1e-2
)
NO_GRADIENT = 1e-6  # norms below are rounding noise of a mathematically zero gradient

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    train: dict[str, Any] = field(default_factory=dict)  # configuration the training record was made with
    label_offset: int = 0
    losses: tuple[str, str, str] = ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr")
    resized: bool = False  # the original resizes to 240/400 itself and returns boxes of the input image
    preset: str = ""  # ours; empty: called like the case

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
def build(case: Case, training: bool = False) -> tuple[instseg.Model, dict[str, str]]:
    """The case's model with weights from names, and official name -> our name."""
    manifest = json.loads((DATA / case.name / "manifest.json").read_text())
    state = {
        name: torch.from_numpy(detweights.fill(name, shape, manifest["tweaks"]))
        for name, shape, _ in manifest["state_dict"]
    }
    model, report = convert_state(state, case.preset or case.name, case.train if training else None)
    assert report.ok, str(report)
    return model, report.matched


def near_edge(mask: Array) -> Array:
    """Pixels with a differing pixel in their 3x3 neighbourhood."""
    padded = np.pad(mask, 1, mode="edge")
    height, width = mask.shape
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.min(around, axis=0) != np.max(around, axis=0)


def assert_edges(masks: Array, wrong: Array) -> None:
    """Few pixels are wrong, each of them at an edge of its mask; both [N, H, W]."""
    assert wrong.mean(axis=(1, 2)).max() <= MASK
    for mask, errors in zip(masks, wrong, strict=True):
        assert not (errors & ~near_edge(mask)).any()


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


def recorded_as(record: dict[str, Array], *keys: str) -> str:
    """The first of `keys` with values: the originals name and count their maps differently."""
    return next(key for key in keys if key in record or f"{key}/shape" in record)


def unpacked(record: dict[str, Array], key: str) -> Array:
    shape = record[f"{key}/shape"]
    return np.unpackbits(record[f"{key}/bits"], axis=1)[:, : shape[-2] * shape[-1]].reshape(shape)


def assert_features(
    named: dict[str, torch.Tensor], record: dict[str, Array], first_tap: int = 3
) -> list[str]:
    """Input, backbone from C`first_tap` on, and pyramid; returns the names of the pyramid's levels."""
    levels = [name for name in named if re.fullmatch(r"p\d", name)]
    assert_sampled(named["input"], record, "input_tensor")
    for i in range(first_tap, 6):
        key = recorded_as(record, f"bottom_up/res{i}", f"bottom_up/{i - first_tap}", f"body/{i - first_tap}")
        assert_sampled(named[f"res{i}"], record, key)
    for i, level in enumerate(levels):
        assert_sampled(named[level], record, recorded_as(record, f"feat/{level}", f"feat/{i}"))
    return levels


def assert_outputs(case: Case, named: dict[str, torch.Tensor], record: dict[str, Array]) -> None:
    """Input, backbone, pyramid and head outputs of an FCOS."""
    levels = assert_features(named, record)
    if case.resized:
        for ours, theirs in (("logits", "cls_logits"), ("reg", "bbox_regression"), ("ctr", "bbox_ctrness")):
            flat = [named[f"{ours}.{level}"].permute(0, 2, 3, 1).flatten(1, 2) for level in levels]
            assert_sampled(torch.cat(flat, 1), record, f"head/{theirs}")
        return
    for i, level in enumerate(levels):
        for key in ("logits", "reg", "ctr"):
            assert_sampled(named[f"{key}.{level}"], record, f"head/{key}/{i}")


def order_of(scores: Array, distance: Callable[[int, int], float], tie: float = SCORE_NOISE) -> Array:
    """Ours for each recorded detection: neighbours may swap whose scores differ by at most `tie`, if
    `distance` (of our detection i and the recorded j) says that they did."""
    order = np.arange(len(scores))
    for i in range(1, len(scores)):
        before = int(order[i - 1])
        tied = scores[i - 1] - scores[i] <= tie
        if tied and distance(before, i) < distance(before, i - 1):
            order[[i - 1, i]] = order[[i, i - 1]]
    return order


def assert_detections(
    found: instseg.Instances, record: dict[str, Array], prefix: str = "", scale: tuple[float, float] = (1, 1)
) -> None:
    """Count, order, labels, boxes (times `scale` x, y) and scores."""
    boxes = record[f"{prefix}out/boxes"]
    labels = record.get(f"{prefix}out/classes", record.get(f"{prefix}out/labels"))
    scores = record[f"{prefix}out/scores"]
    assert labels is not None and len(found) == len(boxes) > 0
    ours = found.boxes.numpy() * np.float32([*scale, *scale])
    order = order_of(scores, lambda i, j: float(np.abs(ours[i] - boxes[j]).max()))
    assert found.labels.numpy()[order].tolist() == labels.tolist()
    assert np.abs(ours[order] - boxes).max() <= BOX
    assert np.abs(found.scores.numpy() - scores).max() <= SCORE


def assert_gradients(
    case: Case, model: instseg.Model, names: dict[str, str], record: dict[str, Array]
) -> None:
    """Norm and samples of every gradient, their total norm, and the statistics of norms after the step.

    What the original's loss does not reach has no gradient there; ours is exactly zero.
    """
    gradients = {
        name: parameter.grad.double()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    manifest = json.loads((DATA / case.name / "manifest.json").read_text())
    assert len(gradients) == manifest["grad_info"]["trainable"]
    for name in manifest["grad_info"]["no_grad_but_trainable"]:
        assert not gradients[names[name]].any(), name
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
    counters = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert bool(after) == any(int(counter) > 0 for counter in counters)  # norms may keep their statistics
    for key in after:
        ours = state[names[key.removeprefix("bn_after/")]].double().numpy()
        assert np.abs(ours - record[key]).max() <= FEATURE * np.abs(record[key]).max(), key
