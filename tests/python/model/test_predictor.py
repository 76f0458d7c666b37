# SPDX-License-Identifier: Apache-2.0
"""instseg.Predictor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tiny_model import amplified

import instseg

Make = Callable[..., instseg.Model]
Images = list[npt.NDArray[np.uint8]]


@pytest.fixture
def model(make: Make) -> instseg.Model:
    return amplified(make("frozen_bn").eval())


def assert_same(ours: instseg.Instances, expected: instseg.Instances) -> None:
    assert len(ours) == len(expected) > 0
    assert torch.equal(ours.labels, expected.labels)
    torch.testing.assert_close(ours.boxes, expected.boxes, rtol=0, atol=0.01)
    torch.testing.assert_close(ours.scores, expected.scores, rtol=0, atol=1e-5)
    assert ours.image_size == expected.image_size


def test_agrees_with_the_model(model: instseg.Model, images: Images, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    expected = model(images)
    for predictor in (instseg.Predictor(model), instseg.Predictor(path), instseg.Predictor(str(path))):
        for ours, theirs in zip(predictor(images), expected, strict=True):
            assert_same(ours, theirs)
        assert predictor.config == model.config
        assert predictor.class_names == ["cat", "dog", "bird"]
        assert predictor.warnings == []
    found = instseg.Predictor(path)(images[0])
    assert set(found.names) <= {"cat", "dog", "bird"}
    assert {entry["category_id"] for entry in found.to_coco(1)} <= {7, 8, 9}


def test_leaves_the_model_alone(model: instseg.Model, images: Images) -> None:
    predictor = instseg.Predictor(model)
    before = predictor(images[0])
    with torch.no_grad():
        model.get_parameter("head.cls_logits.bias").add_(3)
    assert_same(predictor(images[0]), before)
    assert not torch.equal(model(images[:1])[0].scores, before.scores)
    model.train()
    assert model(images[:1], [{"boxes": [[1.0, 2.0, 30.0, 40.0]], "labels": [1]}])


def test_kinds_of_images(model: instseg.Model, images: Images, tmp_path: Path) -> None:
    predictor = instseg.Predictor(model)
    image = images[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(image).save(tmp_path / "image.bmp")
    expected = predictor(image)
    sources: list[Any] = [
        tmp_path / "image.png",
        str(tmp_path / "image.bmp"),
        torch.from_numpy(image),
        Image.fromarray(image),
        np.asfortranarray(image),
    ]
    for source in sources:
        assert_same(predictor(source), expected)
    for found in predictor(sources):
        assert_same(found, expected)
    assert predictor([]) == []


def test_results_are_in_the_given_image(model: instseg.Model, images: Images) -> None:
    predictor = instseg.Predictor(model)
    large = np.array(Image.fromarray(images[0]).resize((192, 128), Image.Resampling.NEAREST))
    found = predictor(large)
    assert found.image_size == (128, 192)
    assert len(found) and found.boxes[:, 2].max() > 96
    assert (
        found.boxes.min() >= 0 and (found.boxes.max(0).values <= torch.tensor([192.0, 128, 192, 128])).all()
    )


def test_sizes_may_differ_in_a_batch(model: instseg.Model, images: Images) -> None:
    found = instseg.Predictor(model)([images[0], np.ascontiguousarray(images[1].transpose(1, 0, 2))])
    assert [instances.image_size for instances in found] == [(64, 96), (96, 64)]


def test_options(model: instseg.Model, images: Images) -> None:
    plain = instseg.Predictor(model)(images[0])
    threshold = float(plain.scores.median())
    above = instseg.Predictor(model, score_threshold=threshold)(images[0])
    assert 0 < len(above) < len(plain) and above.scores.min() >= threshold
    assert len(instseg.Predictor(model, max_detections=2)(images[0])) == 2
    smaller = instseg.Predictor(model, short_side=32, long_side=48)
    assert smaller.config.input.short_side == 32
    assert len(smaller(images[0]).scores) != len(plain) or not torch.equal(
        smaller(images[0]).scores, plain.scores
    )


def test_bf16(model: instseg.Model, images: Images) -> None:
    full, half = (instseg.Predictor(model, precision=precision)(images[0]) for precision in ("fp32", "bf16"))
    assert abs(float(full.scores[0] - half.scores[0])) < 0.02
    assert half.boxes.dtype == half.scores.dtype == torch.float32


def test_times(model: instseg.Model, images: Images) -> None:
    predictor = instseg.Predictor(model)
    predictor(images)
    assert set(predictor.last_times) == {"preprocess", "network", "postprocess"}
    assert all(value > 0 for value in predictor.last_times.values())


def test_threads_take_turns(model: instseg.Model, images: Images) -> None:
    predictor = instseg.Predictor(model)
    expected = predictor(images[0])
    found: list[instseg.Instances] = []
    threads = [threading.Thread(target=lambda: found.append(predictor(images[0]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for instances in found:
        assert_same(instances, expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "int8"}, "int8"),
        ({"precision": "fp16"}, "fp16"),
        ({"device": "toaster"}, "toaster"),
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"max_detections": 0}, "max_detections"),
        ({"short_side": -3}, "short_side"),
    ],
)
def test_bad_options(model: instseg.Model, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        instseg.Predictor(model, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(model: instseg.Model) -> None:
    with pytest.raises(ValueError, match="cuda"):
        instseg.Predictor(model, device="cuda")


def test_bad_sources(model: instseg.Model, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        instseg.Predictor(tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="broken") as caught:
        instseg.Predictor(broken)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="dict"):
        instseg.Predictor({})  # type: ignore[arg-type]


def test_bad_images(model: instseg.Model, images: Images, tmp_path: Path) -> None:
    predictor = instseg.Predictor(model)
    with pytest.raises(OSError, match="absent"):
        predictor(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="float32"):
        predictor(images[0].astype(np.float32))
    with pytest.raises(ValueError, match=r"\[2, 64, 96, 3\]"):
        predictor(np.stack(images))
    with pytest.raises(TypeError, match="NoneType"):
        predictor([images[0], None])  # type: ignore[list-item]
    with pytest.raises(ValueError):
        predictor(np.zeros((0, 5, 3), np.uint8))


def test_nan_weights_are_reported(model: instseg.Model, tmp_path: Path) -> None:
    with torch.no_grad():
        model.get_parameter("head.scales.0").fill_(float("nan"))
    model.save(tmp_path / "model.safetensors")
    (warning,) = instseg.Predictor(tmp_path / "model.safetensors").warnings
    assert "head.scales.0" in warning
