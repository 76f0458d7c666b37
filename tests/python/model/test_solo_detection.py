# SPDX-License-Identifier: Apache-2.0
"""SOLO, Decoupled SOLO and SOLOv2: small models detect, copy and run with every option."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import solo_twin
import torch
from mask_scene import NOTHING, OBJECTS, same, scene, step
from solo_models import (
    GRIDS,
    assert_close,
    assert_valid,
    detecting,
    make,
    of_heads,
    photos,
)
from tiny_model import HEIGHT, WIDTH, tiny_images

import instseg
from instseg import ops


@of_heads
def test_lazy_masks_are_those_of_all_cells(head: str) -> None:
    model = detecting(head)
    batch = model.batch(photos())
    named = model.intermediates(batch)
    assert [name for name in named if name.startswith("p")] == ["p2", "p3", "p4", "p5", "p6"]
    for level, size in enumerate(GRIDS):
        assert named[f"cls.{level}"].shape == (3, 3, size, size)
    for i, ours in enumerate(model.detect(batch)):
        assert_valid(ours, (HEIGHT, WIDTH))
        assert_close(ours, *solo_twin.detect(named, i, model.config))
    sizes = {tuple(named[f"cls.{level}"].shape[2:]) for level in range(5)}
    assert len(sizes) == 5


@pytest.mark.parametrize(
    ("solo", "post"),
    [
        ({}, {}),
        ({"nms_kernel": "linear"}, {}),
        ({"nms_sigma": 0.5}, {}),
        ({"nms": "mask"}, {"nms_threshold": 0.5}),
        ({"nms": "mask"}, {"nms_threshold": 0.1503}),
        ({"max_candidates": 7}, {}),
        ({"max_candidates": 1}, {}),
        ({}, {"max_detections": 3}),
        ({"update_threshold": 0.2}, {}),
        ({"update_threshold": 0.0}, {}),
        ({}, {"score_threshold": 0.25}),
        ({"update_threshold": 0.0}, {"score_threshold": 0.05}),
    ],
)
@pytest.mark.parametrize("head", ["solo", "solov2"])
def test_options_of_detection(head: str, solo: dict[str, Any], post: dict[str, Any]) -> None:
    model = detecting(head, solo, post={"max_detections": 1000, **post})
    named = model.intermediates(model.batch(photos()))
    found = model.detect(photos())
    for i, ours in enumerate(found):
        assert_close(ours, *solo_twin.detect(named, i, model.config))
        assert len(ours) <= model.config.post.max_detections
        assert len(ours) <= model.config.solo.max_candidates
        assert ours.scores.min() >= model.config.solo.update_threshold
    if solo or post:
        plain = detecting(head, {}, post={"max_detections": 1000}).detect(photos())
        assert any(
            len(a) != len(b) or not torch.equal(a.scores, b.scores) for a, b in zip(found, plain, strict=True)
        )


@of_heads
def test_nothing_detected(head: str) -> None:
    without_cells = make(head, post={"score_threshold": 0.999})
    without_masks = make(head, post={"score_threshold": 0.001})  # no mask reaches 0.5
    for model in (without_cells, without_masks):
        for found in model.eval().detect([scene(), *tiny_images(1)]):
            assert len(found) == 0
            assert_valid(found, (HEIGHT, WIDTH))
            assert found.masks is not None and found.masks.probabilities.shape == (0, 16, 24)
            assert found.rle() == [] and found.area().tolist() == []
        predicted = instseg.Predictor(model)(scene())
        assert len(predicted) == 0
        assert_valid(predicted, (HEIGHT, WIDTH))


@of_heads
def test_any_position_in_a_batch(head: str) -> None:
    model = detecting(head)
    images = [*photos(), np.ascontiguousarray(scene()[:40, :70])]
    batch = model.batch(images)
    found = model.detect(batch)
    for i, ours in enumerate(found):
        # The grid divides the padded image, so alone it must be padded like the batch.
        alone = _alone(batch, i)
        (expected,) = model.detect(alone)
        assert expected.masks is not None
        assert_close(ours, expected.scores, expected.labels, expected.masks.probabilities)
        assert ours.image_size == tuple(images[i].shape[:2])
        assert_valid(ours, ours.image_size)
    backwards = model.detect(images[::-1])
    for ours, again in zip(found, reversed(backwards), strict=True):
        assert again.masks is not None
        assert_close(ours, again.scores, again.labels, again.masks.probabilities)


def _alone(batch: instseg.ImageBatch, i: int) -> instseg.ImageBatch:
    return ops.ImageBatch(batch.pixels[i : i + 1], batch.sizes[i : i + 1], batch.original_sizes[i : i + 1])


@of_heads
def test_requested_size(head: str) -> None:
    model = detecting(head)
    (plain,) = model.detect(ops.make_batch([scene()], model.config.input))
    for size in ((HEIGHT * 2, WIDTH * 2), (33, 101), (1, 1)):
        (found,) = model.detect(ops.make_batch([scene()], model.config.input, [size]))
        assert torch.equal(found.scores, plain.scores)
        assert_valid(found, size)


@of_heads
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (1, 200), (31, 33)])
def test_images_of_any_size(head: str, size: tuple[int, int]) -> None:
    model = detecting(head)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for found in (model.detect([image])[0], instseg.Predictor(model)(image, size=None)):
        assert_valid(found, size)


@of_heads
def test_predictor_agrees_with_the_model(head: str, tmp_path: Path) -> None:
    model = detecting(head)
    model.save(tmp_path / "model.safetensors")
    expected = model.detect(photos())
    for source in (model, tmp_path / "model.safetensors"):
        predictor = instseg.Predictor(source)
        for ours, theirs in zip(predictor(photos()), expected, strict=True):
            assert theirs.masks is not None
            assert_close(ours, theirs.scores, theirs.labels, theirs.masks.probabilities)
            assert_valid(ours, (HEIGHT, WIDTH))
        assert predictor.config == model.config


@of_heads
def test_threshold_and_limit_of_the_predictor(head: str) -> None:
    model = detecting(head)
    plain = instseg.Predictor(model)(scene())
    threshold = float(plain.scores.median())
    # What is not reported still suppresses: scores stay as they are.
    for above in (
        instseg.Predictor(model, score_threshold=threshold)(scene()),
        instseg.Predictor(model)(scene(), score_threshold=threshold),
    ):
        expected = plain.above(threshold)
        assert 0 < len(above) < len(plain) and torch.equal(above.scores, expected.scores)
        assert above.rle() == expected.rle()
    first = instseg.Predictor(model, max_detections=2)(scene())
    assert torch.equal(first.scores, plain.scores[:2]) and first.rle() == plain.rle()[:2]


@of_heads
def test_bf16_predictor(head: str) -> None:
    model = detecting(head)
    half = instseg.Predictor(model, precision="bf16")(scene())
    assert_valid(half, (HEIGHT, WIDTH))
    full = instseg.Predictor(model)(scene())
    assert abs(float(full.scores[0] - half.scores[0])) < 0.05


@of_heads
def test_copies_detect_the_same(head: str, tmp_path: Path) -> None:
    model = detecting(head)
    expected = model.detect(photos())
    twin = copy.deepcopy(model)
    assert same(expected, twin.detect(photos()))
    assert same(expected, pickle.loads(pickle.dumps(model)).detect(photos()))
    model.save(tmp_path / "model.safetensors")
    loaded = instseg.Model.load(tmp_path / "model.safetensors").eval()
    assert loaded.config == model.config and same(expected, loaded.detect(photos()))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert same(expected, model.detect(photos())) and not same(expected, twin.detect(photos()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@of_heads
def test_a_gpu_computes_what_the_cpu_does(head: str) -> None:
    model = detecting(head, backbone={"norm": "bn_eval"})
    there = copy.deepcopy(model).cuda()
    for gpu, cpu in zip(there.detect(photos()), model.detect(photos()), strict=True):
        assert len(gpu) == len(cpu) > 0 and gpu.masks is not None and gpu.masks.probabilities.is_cuda
        torch.testing.assert_close(gpu.scores.cpu(), cpu.scores, rtol=0, atol=5e-3)
        assert float((gpu.bitmaps().cpu() ^ cpu.bitmaps()).float().mean()) < 1e-3
    targets = [OBJECTS, NOTHING]
    assert step(there, targets) == pytest.approx(step(model, targets), rel=1e-3)
    for (name, ours), theirs in zip(there.named_parameters(), model.parameters(), strict=True):
        if ours.requires_grad:
            assert ours.grad is not None and theirs.grad is not None
            assert float(ours.grad.norm()) == pytest.approx(float(theirs.grad.norm()), rel=2e-2), name
