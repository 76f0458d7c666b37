# SPDX-License-Identifier: Apache-2.0
"""Images without objects, and with crowds alone, train every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import instseg
from instseg.data import Augmentation, CocoDataset, Crop, training_batches

MODEL: dict[str, Any] = {
    "num_classes": 2,
    "input": {"short_side": 64, "long_side": 96},
    "backbone": {"name": "resnet18", "freeze": 0, "stride_in_1x1": False},
    "neck": {"channels": 32, "max_level": 5},
    "head": {"cls_convs": 1, "box_convs": 1},
    "targets": {"sizes_of_interest": [32, 64]},
}
BRANCH = {"branch_channels": 16, "branch_convs": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "fcos": {},
    "fcos_bn": {"backbone": {"norm": "bn"}, "head": {"norm": "bn"}},
    "condinst": {"family": "condinst", "condinst": BRANCH},
    "boxinst": {"family": "condinst", "condinst": {**BRANCH, "supervision": "boxes"}},
    "blendmask": {"family": "blendmask", "blendmask": BRANCH},
    "solo": {"preset": "solo_R50_1x"},
    "decoupled_solo": {"preset": "decoupled_solo_light_R50_3x"},
    "solov2": {"preset": "solov2_light_448_R18_3x"},
}


def config_of(name: str) -> instseg.ModelConfig:
    from instseg.recipe import parse_recipe

    changes = dict(FAMILIES[name])
    if "preset" in changes:
        small: dict[str, Any] = {
            "num_classes": 2,
            "class_names": [],
            "category_ids": [],
            "input": {"short_side": 64, "long_side": 96},
        }
        small |= {"backbone": {"name": "resnet18"}, "solo": {"convs": 1}}
        return parse_recipe({"model": {**small, **changes}}).model_settings()
    for section, values in changes.items():
        changes[section] = {**MODEL.get(section, {}), **values} if isinstance(values, dict) else values
    return parse_recipe({"model": {**MODEL, **changes}}).model_settings()


@pytest.fixture
def files(make_dataset):
    """Objects in image 10 alone, a crowd in 11, nothing in 12 and 13; all of one shape."""

    def edit(document):
        box = [10, 12, 40, 30]
        mask = [[10, 12, 50, 12, 50, 42, 10, 42]]
        crowd = {"size": [64, 96], "counts": [640, 640, 76 * 64]}
        document["annotations"] = [
            {"id": 1, "image_id": 10, "category_id": 3, "bbox": box, "segmentation": mask},
            {"id": 2, "image_id": 11, "category_id": 7, "bbox": [10, 0, 10, 64], "iscrowd": 1,
             "segmentation": crowd},
        ]  # fmt: skip

    return make_dataset(sizes=[(64, 96)] * 4, edit=edit)


def batches_of(files, count: int, crop: Crop | None = None, seed: int = 0):
    data = CocoDataset(*files, masks=True, semantic=True, filter_empty=False)
    augment = Augmentation(instseg.InputConfig(), (64,), 96, crop=crop)
    return list(training_batches(data, augment, batch_size=2, seed=seed, start=0, stop=count))


def test_empty_images_are_filtered_or_read(files):
    assert [m.id for m in CocoDataset(*files, filter_empty=True).images] == [10]
    assert [m.id for m in CocoDataset(*files, masks=True, filter_empty=True).images] == [10]
    batches = batches_of(files, 4, Crop(0.9, 1.0))
    assert {own for batch in batches for own in batch.image_ids} == {10, 11, 12, 13}
    for batch in batches:
        for own, targets in zip(batch.image_ids, batch.targets, strict=True):
            count = int(own == 10)
            assert targets["boxes"].shape == (count, 4) and targets["labels"].shape == (count,)
            assert len(targets["masks"]) == count
            assert bool(targets["semantic"].any()) == (own in (10, 11))  # crowds are on the map


def losses(model: torch.nn.Module, config: instseg.ModelConfig, batch) -> dict[str, torch.Tensor]:
    images = instseg.ops.make_batch(batch.images, config.input, batch.original_sizes)
    return model(images, batch.targets)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_them(files, family):
    torch.manual_seed(0)
    config = config_of(family)
    model = instseg.Model(config).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = batches_of(files, 4)
    empty = [sum(len(t["labels"]) for t in batch.targets) == 0 for batch in batches]
    assert any(empty) and not all(empty)
    for batch, nothing in zip(batches, empty, strict=True):
        optimizer.zero_grad(set_to_none=True)
        found = losses(model, config, batch)
        total = sum(found.values())
        assert torch.isfinite(total)
        total.backward()
        # DDP waits for a gradient of every trained parameter.
        assert all(
            p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad
        )
        of_objects = [value for name, value in found.items() if name in ("loss_box", "loss_mask", "loss_prj")]
        assert all(bool(value == 0) == nothing for value in of_objects)
        optimizer.step()


def _worker(rank: int, folder: str, files: tuple[Path, Path]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    batches = batches_of(files, 6)
    empty = [b for b in batches if all(len(t["labels"]) == 0 for t in b.targets)]
    full = [b for b in batches if b not in empty]
    batch = (empty if rank else full)[0]
    torch.manual_seed(0)
    model = instseg.Model(config_of("boxinst")).train()
    model.sync_normalizers()
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    for _ in range(2):  # the second step fails where a parameter took no part in the first
        model.zero_grad(set_to_none=True)
        sum(losses(ddp, model.config, batch).values()).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    torch.save(trained, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_one_of_them_without_objects(files, tmp_path):
    """BoxInst; the tests of the models do it with the other families."""
    mp.spawn(_worker, args=(str(tmp_path), files), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert gradient is not None and gradient.isfinite().all(), name
        assert torch.equal(gradient, second[name]), name
