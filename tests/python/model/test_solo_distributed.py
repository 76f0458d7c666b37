# SPDX-License-Identifier: Apache-2.0
"""SOLO in two processes that see objects of different levels, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mask_scene import NOTHING, OBJECTS, scene, total
from solo_models import config, given, of_heads
from tiny_model import HEIGHT, WIDTH
from torch import nn

import instseg


def _targets(rank: int, other: str) -> list[dict[str, Any]]:
    if rank == 0:
        return [OBJECTS, NOTHING]
    if other == "nothing":
        return [NOTHING, NOTHING]
    return [NOTHING, given(torch.ones(1, HEIGHT, WIDTH))]  # of the levels for large objects


def _worker(rank: int, world: int, folder: str, head: str, other: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    torch.manual_seed(rank)  # DDP has to broadcast rank 0's parameters
    model = instseg.Model(config(head, backbone={"norm": "frozen_bn"})).train()
    ddp = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):  # the second step fails where a parameter took no part in the first
        model.zero_grad(set_to_none=True)
        losses = ddp([scene(), scene()], _targets(rank, other))
        total(losses).backward()
    torch.save({name: p.grad for name, p in model.named_parameters()}, f"{folder}/gradients{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("other", ["nothing", "large"])
@of_heads
def test_gradients_are_those_of_one_large_batch(head: str, other: str, tmp_path: Path) -> None:
    mp.spawn(_worker, args=(2, str(tmp_path), head, other), nprocs=2)
    first, second = (torch.load(tmp_path / f"gradients{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    model = instseg.Model(config(head, backbone={"norm": "frozen_bn"})).train()
    every = [target for rank in (0, 1) for target in _targets(rank, other)]
    total(model([scene()] * 4, every)).backward()  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert parameter.grad is not None
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(first[name], parameter.grad, rtol=0, atol=1e-5 * scale + 1e-8, msg=name)
