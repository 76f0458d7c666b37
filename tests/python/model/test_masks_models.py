# SPDX-License-Identifier: Apache-2.0
"""CondInst and BlendMask: small models train, detect, copy and run with every option."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mask_scene import (
    BOXES,
    NOTHING,
    OBJECTS,
    assert_all_gradients,
    rectangle,
    same,
    scene,
    step,
    total,
)
from tiny_model import HEIGHT, WIDTH, tiny_images
from torch import nn

import instseg

FAMILIES = ("condinst", "blendmask")
SMALL = {"branch_channels": 16, "branch_convs": 2}


def config(family: str, **changes: Any) -> instseg.ModelConfig:
    """A small model; `changes` are sections, merged into the small ones."""
    sections: dict[str, Any] = {
        "input": {"short_side": HEIGHT, "long_side": WIDTH},
        "backbone": {"name": "resnet18", "norm": "bn", "freeze": 0},
        "neck": {"channels": 32},
        "head": {"cls_convs": 1, "box_convs": 1},
        "post": {"score_threshold": 0.001, "threshold_on": "product", "max_detections": 20},
        family: dict(SMALL),
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    return instseg.ModelConfig(family=family, num_classes=3, **sections)


def make(family: str, **changes: Any) -> instseg.Model:
    torch.manual_seed(0)
    return instseg.Model(config(family, **changes))


def detections(model: instseg.Model, images: list[Any] | None = None) -> list[instseg.Instances]:
    found = model.eval().detect(images or [scene(), *tiny_images(1)])
    for instances in found:
        assert len(instances.rle()) == len(instances)
        assert all(tuple(mask["size"]) == instances.image_size for mask in instances.rle())
    return found


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_steps_lower_the_loss(family: str, backbone: str) -> None:
    model = make(family, backbone={"name": backbone}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sums = []
    masks = []
    for _ in range(12):
        optimizer.zero_grad()
        losses = model([scene(), scene()], [OBJECTS, NOTHING])
        assert isinstance(losses, dict) and "loss_mask" in losses
        loss = total(losses)
        loss.backward()
        assert_all_gradients(model)
        optimizer.step()
        sums.append(float(loss.detach()))
        masks.append(float(losses["loss_mask"].detach()))
    assert np.isfinite(sums).all() and sums[-1] < 0.8 * sums[0], sums
    assert masks[-1] < masks[0], masks


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("condinst", {}),
        ("condinst", {"semantic": True}),
        ("condinst", {"supervision": "boxes", "mask_channels": 16, "topk_per_image": 64, "max_proposals": 0}),
        ("blendmask", {"semantic": True}),
        ("blendmask", {"semantic": False}),
        ("blendmask", {"bottom": "deeplab_pyramid"}),
        ("blendmask", {"bottom": "deeplab_backbone"}),
    ],
)
def test_images_without_objects(family: str, options: dict[str, Any]) -> None:
    model = make(family, **{family: options})
    for targets in ([OBJECTS, OBJECTS], [NOTHING, NOTHING]):
        losses = step(model, targets)
        assert np.isfinite(list(losses.values())).all(), losses
        assert_all_gradients(model)
    mask_losses = [value for name, value in losses.items() if "mask" in name or name.startswith("loss_pr")]
    assert mask_losses and not any(mask_losses), losses


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("condinst", {"semantic": True}),
        ("condinst", {"supervision": "boxes", "mask_channels": 16, "topk_per_image": 64, "max_proposals": 0}),
        ("blendmask", {}),
    ],
)
def test_a_gpu_computes_what_the_cpu_does(family: str, options: dict[str, Any]) -> None:
    model = make(family, **{family: options}, backbone={"norm": "bn_eval"})
    there = copy.deepcopy(model).cuda()
    targets = [OBJECTS, NOTHING]
    assert step(there, targets) == pytest.approx(step(model, targets), rel=1e-3)
    for (name, ours), theirs in zip(there.named_parameters(), model.parameters(), strict=True):
        if ours.requires_grad:
            assert ours.grad is not None and theirs.grad is not None
            assert float(ours.grad.norm()) == pytest.approx(float(theirs.grad.norm()), rel=2e-2), name
    with torch.autocast("cuda", torch.bfloat16):
        assert np.isfinite(list(step(there, targets).values())).all()
    for gpu, cpu in zip(detections(there), detections(model), strict=True):
        assert len(gpu) == len(cpu)
        torch.testing.assert_close(gpu.boxes.cpu(), cpu.boxes, rtol=0, atol=0.05)
        assert gpu.masks.probabilities.is_cuda  # type: ignore[union-attr]
        different = gpu.bitmaps().cpu() ^ cpu.bitmaps()
        assert not len(gpu) or float(different.float().mean()) < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_detected(family: str) -> None:
    for instances in detections(make(family, post={"score_threshold": 0.999})):
        assert len(instances) == 0 and instances.rle() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_different_sizes(family: str) -> None:
    model = make(family)
    large, small = scene((96, 128)), scene()
    both = detections(model, [large, small])
    assert [instances.image_size for instances in both] == [(96, 128), (HEIGHT, WIDTH)]
    # The larger image is padded no further by the batch.
    (alone,) = detections(model, [large])
    torch.testing.assert_close(both[0].boxes, alone.boxes, rtol=0, atol=1e-3)
    model.train()
    of_large = {**OBJECTS, "masks": instseg.MaskTargets.from_coco([rectangle(*b) for b in BOXES], (96, 128))}
    losses = model([large, small], [of_large, OBJECTS])
    assert all(torch.isfinite(value) for value in losses.values())  # type: ignore[union-attr]
    with pytest.raises(
        ValueError, match=r"masks of image 0 are of a 64 x 96 image, the network sees 96 x 128"
    ):
        model([large, small], [OBJECTS, OBJECTS])


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_detect_the_same(family: str, tmp_path: Path) -> None:
    model = make(family)
    expected = detections(model)
    twin = copy.deepcopy(model)
    assert same(expected, detections(twin))
    assert same(expected, detections(pickle.loads(pickle.dumps(model))))
    model.save(tmp_path / "model.safetensors")
    loaded = instseg.Model.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config and same(expected, detections(loaded))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert same(expected, detections(model)) and not same(expected, detections(twin))


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_training_step(family: str) -> None:
    model = make(family).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([scene(), scene()], [OBJECTS, NOTHING])
    total(losses).backward()  # type: ignore[arg-type]
    assert all(value.dtype == torch.float32 for value in losses.values())  # type: ignore[union-attr]
    assert torch.isfinite(total(losses))  # type: ignore[arg-type]
    assert_all_gradients(model)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"head_depth": 1}, 11),
        ({"head_depth": 2}, 97),
        ({"head_depth": 3}, 169),
        ({"head_depth": 4}, 241),
        ({"head_width": 2}, 31),
        ({"head_width": 4}, 69),
        ({"head_width": 8}, 169),
        ({"head_width": 16}, 465),
        ({"coordinates": "none"}, 153),
        ({"mask_channels": 0}, 105),
        ({"coordinates": "absolute"}, 169),
        ({"output_stride": 8}, 169),
        ({"output_stride": 2}, 169),
        ({"branch_norm": "gn", "branch_channels": 32}, 169),
        ({"branch_norm": "none"}, 169),
        ({"max_proposals": 3}, 169),
    ],
)
def test_condinst_options(options: dict[str, Any], parameters: int) -> None:
    model = make("condinst", condinst=options)
    assert model.get_parameter("controller.bias").shape == (parameters,)
    losses = step(model, [OBJECTS, NOTHING])
    assert np.isfinite(list(losses.values())).all() and losses["loss_mask"] > 0
    assert_all_gradients(model)
    assert model.get_parameter("controller.weight").grad.abs().sum() > 0  # type: ignore[union-attr]
    found = detections(model)
    assert any(len(instances) for instances in found)


def test_condinst_needs_an_input() -> None:
    with pytest.raises(ValueError, match="mask_channels"):
        make("condinst", condinst={"mask_channels": 0, "coordinates": "none"})


@pytest.mark.parametrize(
    "options",
    [
        {"bottom": "deeplab_pyramid"},
        {"bottom": "deeplab_backbone"},
        {"bases": 2, "attention_size": 7, "mask_size": 28},
        {"branch_norm": "gn", "branch_channels": 32, "branch_convs": 1},
        {"paste": "whole"},
    ],
)
def test_blendmask_options(options: dict[str, Any]) -> None:
    model = make("blendmask", blendmask=options)
    count = options.get("bases", 4) * options.get("attention_size", 14) ** 2
    assert model.get_parameter("top_layer.bias").shape == (count,)
    losses = step(model, [OBJECTS, NOTHING])
    assert np.isfinite(list(losses.values())).all() and losses["loss_mask"] > 0
    assert_all_gradients(model)
    assert model.get_parameter("top_layer.weight").grad.abs().sum() > 0  # type: ignore[union-attr]
    assert any(len(instances) for instances in detections(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_needs_masks(family: str) -> None:
    model = make(family).train()
    with pytest.raises(ValueError, match="mask"):
        model([scene()], [{"boxes": BOXES, "labels": [0, 2, 1]}])


def _worker(rank: int, world: int, folder: str, family: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    torch.manual_seed(rank)  # DDP has to broadcast rank 0's parameters
    model = instseg.Model(config(family)).train()
    assert model.sync_normalizers()
    ddp = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    targets = [NOTHING, NOTHING] if rank else [OBJECTS, NOTHING]
    for _ in range(3):
        optimizer.zero_grad()
        total(ddp([scene(), scene()], targets)).backward()
        optimizer.step()
    torch.save(dict(model.named_parameters()), f"{folder}/parameters{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_process_without_objects(family: str, tmp_path: Path) -> None:
    mp.spawn(_worker, args=(2, str(tmp_path), family), nprocs=2)
    first, second = (torch.load(tmp_path / f"parameters{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    initial = dict(instseg.Model(config(family)).named_parameters())
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    moved = {name for name, tensor in first.items() if not torch.equal(tensor, initial[name])}
    assert any(name.startswith(("controller.", "top_layer.")) for name in moved)
