# SPDX-License-Identifier: Apache-2.0
"""A training step split into micro-batches, or over workers, equals one large batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mask_scene import NOTHING, OBJECTS, scene, total
from solo_models import config as solo_config
from tiny_model import tiny_config
from torch import nn

import instseg

ONE = {"boxes": OBJECTS["boxes"][:1], "labels": OBJECTS["labels"][:1], "masks": OBJECTS["masks"].select([0])}
EVERY = [OBJECTS, NOTHING, ONE, OBJECTS, NOTHING, NOTHING]  # of six images


def fcos_like(family: str, norm: str = "frozen_bn", **fields: Any) -> instseg.ModelConfig:
    values = tiny_config(norm).to_dict()
    return instseg.ModelConfig.from_dict({**values, "family": family, **fields})


def mask_family(family: str, **fields: Any) -> instseg.ModelConfig:
    values = tiny_config("frozen_bn").to_dict()
    values[family].update({"branch_norm": "gn" if family == "condinst" else "none", **fields})
    return instseg.ModelConfig.from_dict({**values, "family": family})


CONFIGS = {
    "fcos": lambda: fcos_like("fcos"),
    "iou": lambda: fcos_like("fcos", head={**tiny_config().to_dict()["head"], "quality": "iou"}),
    "condinst": lambda: mask_family("condinst"),
    "blendmask": lambda: mask_family("blendmask"),
    "solo": lambda: solo_config("solo", backbone={"norm": "frozen_bn"}),
    "solov2": lambda: solo_config("solov2", backbone={"norm": "frozen_bn"}),
}


def gradients(model: instseg.Model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert ours.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        # Sums in another order: float32 noise of the largest gradients reaches all of them.
        allowed = tolerance * float(grad.abs().max()) + 1e-6 * largest
        assert float((ours[name] - grad).abs().max()) <= allowed, name


def whole_step(model: instseg.Model) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    model.zero_grad(set_to_none=True)
    losses: Any = model([scene()] * len(EVERY), EVERY)
    total(losses).backward()
    return gradients(model), {name: float(value.detach()) for name, value in losses.items()}


@pytest.mark.parametrize("family", CONFIGS)
def test_micro_batches_add_up_to_the_batch(family: str) -> None:
    torch.manual_seed(1)
    model = instseg.Model(CONFIGS[family]()).train()
    twin = copy.deepcopy(model)
    expected, terms = whole_step(twin)
    parts = [EVERY[0:1], EVERY[1:2], EVERY[2:3], EVERY[3:4], EVERY[4:5], EVERY[5:6]]
    mean = torch.stack([model.normalizers([scene()], part) for part in parts]).mean(0)
    model.set_reduce_mean(lambda _: mean, parts=len(parts), micro_batches=len(parts))
    sums = dict.fromkeys(terms, 0.0)
    for part in parts:
        losses: Any = model([scene()], part)
        (total(losses) / len(parts)).backward()
        for name, value in losses.items():
            sums[name] += float(value.detach()) / len(parts)
    assert sums == pytest.approx(terms, rel=1e-5)
    assert_same(gradients(model), expected, 2e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_normalizers_are_what_losses_hands_out(family: str) -> None:
    model = instseg.Model(CONFIGS[family]()).train()
    seen: list[torch.Tensor] = []

    def note(values: torch.Tensor) -> torch.Tensor:
        seen.append(values.clone())
        return values

    model.set_reduce_mean(note)
    model([scene()] * 2, [OBJECTS, ONE])
    assert len(seen) == 1
    assert torch.equal(model.normalizers([scene()] * 2, [OBJECTS, ONE]), seen[0])


def test_the_moving_count_advances_once_a_step() -> None:
    model = instseg.Model(
        fcos_like("fcos", loss={**tiny_config().to_dict()["loss"], "cls_normalizer": "moving"})
    ).train()
    mean = (model.normalizers([scene()], [OBJECTS]) + model.normalizers([scene()], [ONE])) / 2
    model.set_reduce_mean(lambda _: mean, parts=2, micro_batches=2)
    model([scene()], [OBJECTS])
    model([scene()], [ONE])
    assert float(model.get_buffer("moving_positives")) == pytest.approx(90 + 0.1 * float(mean[0]))


def test_pairwise_warmup_counts_steps() -> None:
    model = instseg.Model(mask_family("condinst", supervision="boxes")).train()
    model.set_reduce_mean(None, parts=3, micro_batches=3)
    for _ in range(6):
        model([scene()], [OBJECTS])
    assert int(model.get_buffer("iterations")) == 2


@pytest.mark.parametrize(("parts", "micro_batches"), [(0, 1), (3, 2), (1, 0)])
def test_impossible_parts_are_refused(parts: int, micro_batches: int) -> None:
    model = instseg.Model(tiny_config())
    with pytest.raises(ValueError, match="multiple of micro_batches"):
        model.set_reduce_mean(None, parts, micro_batches)


def test_a_wrong_number_of_normalizers_is_refused() -> None:
    model = instseg.Model(tiny_config()).train()
    model.set_reduce_mean(lambda values: values[:1])
    with pytest.raises(ValueError, match="set_reduce_mean made"):
        model([scene()], [OBJECTS])


def _summed(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values


def _worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = instseg.Model(fcos_like("fcos", "bn")).train()
    model.sync_batch_norm(_summed)
    ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    own = EVERY[3 * rank : 3 * rank + 3]
    total(ddp([scene()] * len(own), own)).backward()
    torch.save((gradients(model), dict(model.named_buffers())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_workers_with_shared_batch_norms_equal_one_batch(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(2, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    model = instseg.Model(fcos_like("fcos", "bn")).train()
    buffers = dict(model.named_buffers())
    expected, _ = whole_step(model)
    for rank in (0, 1):
        grads, found = torch.load(tmp_path / f"{rank}.pt")
        assert_same(grads, expected, 1e-4)
        for name, buffer in buffers.items():
            torch.testing.assert_close(found[name], buffer, rtol=1e-5, atol=1e-6, msg=name)
