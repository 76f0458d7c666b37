# SPDX-License-Identifier: Apache-2.0
"""instseg.create, load and convert; Model.predict."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tiny_model import HEIGHT, TARGETS, WIDTH, amplified, tiny_config

import instseg
from instseg.importers import official_name_map

Make = Callable[..., instseg.Model]
Images = list[npt.NDArray[np.uint8]]


@pytest.fixture
def model(make: Make) -> instseg.Model:
    return amplified(make("bn").eval())


def assert_same(ours: instseg.Instances, expected: instseg.Instances, scale: float = 1.0) -> None:
    assert len(ours) == len(expected) > 0
    assert torch.equal(ours.labels, expected.labels)
    torch.testing.assert_close(ours.boxes, expected.boxes * scale, rtol=0, atol=0.01)
    torch.testing.assert_close(ours.scores, expected.scores, rtol=0, atol=1e-5)
    assert ours.names == expected.names


def differ(one: instseg.Instances, other: instseg.Instances) -> bool:
    return len(one) != len(other) or not torch.allclose(one.scores, other.scores, atol=1e-6)


# ---- create, load, convert ----


def test_create() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (instseg.create(tiny_config(), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(first, instseg.Model) and first.config == tiny_config() and first.report is None
    name = "head.cls_tower.0.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    torch.manual_seed(3)
    assert torch.equal(instseg.create(tiny_config().to_dict()).get_parameter(name), first.get_parameter(name))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "1"])
def test_create_with_a_bad_seed(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"^\[create\] seed must be .*$"):
        instseg.create(tiny_config(), seed=seed)


def test_create_from_an_unknown_preset() -> None:
    with pytest.raises(ValueError, match="fcos_R_50_1x"):
        instseg.create("fcos_R_50_1")


def test_load(model: instseg.Model, images: Images, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = instseg.load(path)
    assert loaded.config == model.config
    assert_same(loaded.predict(images[0]), model.predict(images[0]))
    with pytest.raises(OSError, match="absent"):
        instseg.load(tmp_path / "absent.safetensors")


def foreign_file(path: Path, model: instseg.Model) -> dict[str, torch.Tensor]:
    names = {ours: theirs for theirs, ours in official_name_map(model.config, "adelaidet").items()}
    state = {names[name]: value for name, value in model.state_dict().items() if name in names}
    torch.save({"model": state}, path)
    return state


def test_convert(model: instseg.Model, images: Images, tmp_path: Path) -> None:
    config = tiny_config("frozen_bn")
    original = instseg.Model(config).eval()
    state = foreign_file(tmp_path / "foreign.pth", original)
    converted = instseg.convert(tmp_path / "foreign.pth", preset=config)
    assert not converted.training and converted.config == config
    assert converted.report is not None and converted.report.ok
    assert len(converted.report.matched) == len(state)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["foreign.pth"]
    for name, value in original.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name

    destination = tmp_path / "ours.safetensors"
    again = instseg.convert(
        str(tmp_path / "foreign.pth"), destination, preset=config, overrides={"post.nms_threshold": 0.3}
    )
    assert again.config.post.nms_threshold == 0.3
    assert instseg.load(destination).config == again.config
    assert copy.deepcopy(again).report == again.report == pickle.loads(pickle.dumps(again)).report


def test_convert_strictly(tmp_path: Path) -> None:
    config = tiny_config("frozen_bn")
    state = foreign_file(tmp_path / "x.pth", instseg.Model(config))
    lost = next(name for name in state if name.endswith("cls_logits.bias"))
    del state[lost]
    torch.save(state, tmp_path / "x.pth")
    destination = tmp_path / "ours.safetensors"
    with pytest.raises(ValueError, match=r"x\.pth.*head\.cls_logits\.bias"):
        instseg.convert(tmp_path / "x.pth", destination, preset=config)
    assert not destination.exists()
    report = instseg.convert(tmp_path / "x.pth", destination, preset=config, strict=False).report
    assert report is not None and report.missing == ["head.cls_logits.bias"]
    assert destination.exists()


def test_convert_asks_for_the_preset(tmp_path: Path) -> None:
    foreign_file(tmp_path / "x.pth", instseg.Model("fcos_R_50_1x"))
    with pytest.raises(ValueError, match=r"x\.pth: which model is it: fcos_R_50_1x, .*_iou") as caught:
        instseg.convert(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


# ---- predict ----


def test_predict_agrees_with_the_model(model: instseg.Model, images: Images) -> None:
    expected = model.detect(images)
    for found, reference in zip(model.predict(images), expected, strict=True):
        assert_same(found, reference)
    assert_same(model.predict(images[0]), expected[0])
    assert_same(model.predict(images[0], size=None), expected[0])
    assert model.predict([]) == []


def test_predict_kinds_of_images(model: instseg.Model, images: Images, tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    expected = model.predict(images[0])
    sources: list[Any] = [
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        torch.from_numpy(images[0]),
        Image.fromarray(images[0]),
    ]
    for source in sources:
        assert_same(model.predict(source), expected)
    for found in model.predict(tuple(sources), batch_size=3):
        assert_same(found, expected)
    floats = torch.from_numpy(images[0]).float()
    assert_same(model.predict(floats, size=None), expected)
    with pytest.raises(ValueError, match="uint8"):
        model.predict(floats)


def test_predict_leaves_mode_and_gradients_alone(model: instseg.Model, images: Images) -> None:
    expected = model.predict(images[0])
    for training in (True, False):
        model.train(training)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                found = model.predict(images[0])
                assert torch.is_grad_enabled() == grad and model.training == training
            assert_same(found, expected)
            assert not found.scores.requires_grad
    with torch.inference_mode():
        assert_same(model.predict(images[0]), expected)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_predict_score_threshold(model: instseg.Model, images: Images) -> None:
    everything = model.predict(images[0])
    threshold = float(everything.scores.median())
    found = model.predict(images[0], threshold)
    assert_same(found, everything.above(threshold))
    assert 0 < len(found) < len(everything)


def test_predict_size(model: instseg.Model, images: Images) -> None:
    large = np.array(Image.fromarray(images[0]).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST))
    own = model.predict(large)
    assert own.image_size == (2 * HEIGHT, 2 * WIDTH)
    assert_same(model.predict(large, size=(HEIGHT, WIDTH)), own)
    predictor = instseg.Predictor(model, short_side=96, long_side=200)
    resized = model.predict(large, size=(96, 200))
    assert_same(resized, predictor(large))
    as_is = model.predict(large, size=None)
    assert_same(as_is, model.detect([large])[0])
    assert differ(own, resized) and differ(own, as_is) and differ(resized, as_is)
    assert model.config.input.short_side == HEIGHT


@pytest.mark.parametrize("size", ["model", None, (48, 80)])
def test_predict_output_size(model: instseg.Model, images: Images, size: Any) -> None:
    plain = model.predict(images, size=size)
    doubled = model.predict(images, size=size, output_size=(2 * HEIGHT, 2 * WIDTH))
    for one, two in zip(plain, doubled, strict=True):
        assert two.image_size == (2 * HEIGHT, 2 * WIDTH)
        assert_same(two, one, scale=2)
    stretched = model.predict(images[0], size=size, output_size=(HEIGHT, 3 * WIDTH))
    expected = plain[0].boxes * torch.tensor([3.0, 1, 3, 1])
    torch.testing.assert_close(stretched.boxes, expected, rtol=0, atol=0.01)


def test_predict_batch_size(model: instseg.Model, images: Images) -> None:
    upright = np.ascontiguousarray(images[1].transpose(1, 0, 2))
    many = [images[0], upright, images[1]]
    alone = [model.predict(image) for image in many]
    for batch_size in (1, np.int64(1)):
        for found, expected in zip(model.predict(many, batch_size=batch_size), alone, strict=True):
            assert_same(found, expected)
            assert found.image_size == expected.image_size
    predictor = instseg.Predictor(model)
    for batch_size in (2, 3, 99):
        found_all = model.predict(many, batch_size=batch_size)
        expected_all = [
            found
            for start in range(0, 3, batch_size)
            for found in predictor(many[start : start + batch_size])
        ]
        for found, expected in zip(found_all, expected_all, strict=True):
            assert_same(found, expected)
    predictor(many, batch_size=1, size=None)
    assert all(value > 0 for value in predictor.last_times.values())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"score_threshold": 1.5}, "score_threshold must be within 0..1, got 1.5"),
        ({"score_threshold": "high"}, "score_threshold .* got 'high'"),
        ({"score_threshold": float("nan")}, "score_threshold .* got nan"),
        ({"size": 640}, r"size must be \(short, long\) .* got 640"),
        ({"size": (640,)}, "two positive integers"),
        ({"size": (0, 640)}, "two positive integers"),
        ({"size": (64.0, 96.0)}, "two positive integers"),
        ({"size": (96, 64)}, "short <= long"),
        ({"size": (64, 99999)}, "long_side"),
        ({"size": "own"}, "got 'own'"),
        ({"size": np.array([64, 96])}, "size must be"),
        ({"output_size": (-1, 5)}, r"output_size must be \(height, width\)"),
        ({"output_size": 5}, "output_size"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
    ],
)
def test_bad_arguments(model: instseg.Model, images: Images, arguments: dict[str, Any], text: str) -> None:
    for call in (model.predict, instseg.Predictor(model)):
        with pytest.raises(ValueError, match=text) as caught:
            call(images[0], **arguments)
        assert "\n" not in str(caught.value)


def test_bad_images_and_precision(model: instseg.Model, images: Images, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        model.predict([images[0], tmp_path / "absent.png"])
    with pytest.raises(TypeError, match="NoneType"):
        model.predict(None)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="int8"):
        model.predict(images[0], precision="int8")
    assert_same(model.predict(images[0]), model.predict(images[0]))


def test_predict_in_bf16(model: instseg.Model, images: Images) -> None:
    full, half = (model.predict(images[0], precision=precision) for precision in ("fp32", "bf16"))
    assert differ(full, half)
    assert abs(float(full.scores[0] - half.scores[0])) < 0.05


# ---- The kept inference form follows the weights ----


def kept(model: instseg.Model) -> object:
    assert model._lowered is not None
    return model._lowered[1]


def test_predictor_is_kept(model: instseg.Model, images: Images) -> None:
    model.predict(images[0])
    first = kept(model)
    model.predict(images, size=None, batch_size=2)
    model.detect(images)
    assert kept(model) is first
    model.refresh()
    assert model._lowered is None


def step(model: instseg.Model, images: Images) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    sum(model.losses(images, TARGETS).values()).backward()  # type: ignore[union-attr]
    model.eval()
    model.predict(images[0])
    optimizer.step()


def load_other_weights(model: instseg.Model, _: Images) -> None:
    state = copy.deepcopy(model.state_dict())
    state["head.cls_logits.bias"] += 1
    model.load_state_dict(state)


def change_in_place(model: instseg.Model, _: Images) -> None:
    with torch.no_grad():
        model.get_parameter("head.cls_logits.bias").add_(1)


def change_a_buffer(model: instseg.Model, _: Images) -> None:
    model.get_buffer("backbone.stem.norm.running_mean").add_(5)


def batch_statistics(model: instseg.Model, images: Images) -> None:
    model.train()
    model.predict(images[0])
    model.losses(images, TARGETS)


def write_data_then_eval(model: instseg.Model, _: Images) -> None:
    model.get_parameter("head.cls_logits.bias").data.add_(1)
    model.eval()


def write_data_then_refresh(model: instseg.Model, _: Images) -> None:
    model.get_parameter("head.cls_logits.bias").data.add_(1)
    model.refresh()


CHANGES = [
    step,
    load_other_weights,
    change_in_place,
    change_a_buffer,
    batch_statistics,
    write_data_then_eval,
    write_data_then_refresh,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_predict_follows_the_weights(
    model: instseg.Model, images: Images, change: Callable[[instseg.Model, Images], None]
) -> None:
    before = model.predict(images[0])
    change(model, images)
    after = model.predict(images[0])
    assert differ(before, after)
    assert_same(after, instseg.Predictor(model)(images[0]))


def test_copies_do_not_share_it(model: instseg.Model, images: Images) -> None:
    expected = model.predict(images[0])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin._lowered is None
        assert_same(twin.predict(images[0]), expected)
        assert kept(twin) is not kept(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_cannot_compute(model: instseg.Model, images: Images, dtype: torch.dtype) -> None:
    expected = model.predict(images[0])
    model.to(dtype)
    calls: list[Callable[[], Any]] = [
        lambda: model(images),
        lambda: model.losses(images, TARGETS),
        lambda: model.predict(images[0]),
        lambda: model.intermediates(images),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"{dtype}.*model\.float\(\)") as caught:
            call()
        assert "\n" not in str(caught.value)
    if dtype == torch.float64:
        assert_same(model.float().predict(images[0]), expected)


# ---- losses ----


def test_losses_of_arrays(model: instseg.Model, images: Images) -> None:
    """Arrays and lists as targets give what tensors give."""
    arrays = [
        {
            "boxes": np.array(target["boxes"], dtype=np.float64).reshape(-1, 4),
            "labels": np.array(target["labels"], dtype=np.int32),
        }
        for target in TARGETS
    ]
    tensors = [{key: torch.from_numpy(value) for key, value in target.items()} for target in arrays]
    terms = [model.losses(images, targets) for targets in (TARGETS, arrays, tensors)]
    assert set(terms[0]) == {"loss_cls", "loss_box", "loss_centerness"}
    for other in terms:
        assert all(value.dim() == 0 and value.requires_grad for value in other.values())
        for name, value in terms[0].items():
            assert torch.equal(other[name], value), name
