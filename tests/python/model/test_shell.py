# SPDX-License-Identifier: Apache-2.0
"""instseg.Model is a torch.nn.Module over the tensors C++ computes with."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_model import TARGETS, tiny_config, tiny_images
from torch import nn

import instseg

Make = Callable[..., instseg.Model]


def logits(model: instseg.Model, images: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.intermediates(images)["logits.p3"].clone()


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([value.reshape(()) for value in losses.values()]).sum()


def changed(parameters: Any, by: float = 0.5) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(by)


def test_is_a_module(make: Make, images: list[Any]) -> None:
    model = make()
    assert isinstance(model, nn.Module)
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.parameters())
    names = dict(model.named_parameters())
    assert names["backbone.stem.weight"].shape == (64, 3, 7, 7)
    assert names["neck.lateral3.bias"].shape == (32,)
    assert names["head.scales.4"].shape == (1,)
    assert dict(model.named_buffers())["backbone.res2.0.conv1.norm.running_mean"].shape == (64,)
    core = model.core
    assert set(names) == set(core.named_parameters())
    assert all(parameter is core.named_parameters()[name] for name, parameter in names.items())
    assert {name: tensor.data_ptr() for name, tensor in model.named_buffers()} == {
        name: tensor.data_ptr() for name, tensor in core.named_buffers().items()
    }


def test_config_sources(make: Make) -> None:
    config = tiny_config()
    assert instseg.Model(config.to_dict()).config == make().config == config
    with pytest.raises(ValueError, match="fcos_R_50_1x"):
        instseg.Model("fcos_R_50_1y")
    with pytest.raises(TypeError, match="int"):
        instseg.Model(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes"):
        instseg.Model({"num_classes": -1})


def test_losses_and_detections(make: Make, images: list[Any]) -> None:
    model = make()
    model.train()
    losses = model(images, TARGETS)
    assert set(losses) == {"loss_cls", "loss_box", "loss_centerness"}
    assert all(value.shape == () and value.requires_grad for value in losses.values())
    model.eval()
    found = model(images)
    assert len(found) == 2 and all(isinstance(instances, instseg.Instances) for instances in found)
    assert found[0].image_size == (64, 96) and found[0].class_names == ["cat", "dog", "bird"]
    assert not found[0].scores.requires_grad


def test_masks_and_semantic_maps_reach_cpp(make: Make, images: list[Any]) -> None:
    model = make().train()
    bitmaps = torch.zeros(1, 64, 64, dtype=torch.bool)
    bitmaps[:, 8:40, 8:40] = True
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([0])}
    plain = model._targets(target)
    assert plain.masks is None and plain.semantic is None
    masks = instseg.MaskTargets.from_bitmaps(bitmaps)
    for given in (masks, bitmaps, bitmaps.numpy(), bitmaps.byte()):
        found = model._targets({**target, "masks": given, "semantic": bitmaps[0].byte()})
        assert found.masks == masks and found.semantic is not None
        assert torch.equal(found.semantic, bitmaps[0].byte())
    with pytest.raises(ValueError, match="bitmaps have shape"):
        model._targets({**target, "masks": bitmaps[0]})


def test_bad_inputs(make: Make, images: list[Any]) -> None:
    model = make().train()
    with pytest.raises(ValueError):
        model(images, TARGETS[:1])
    with pytest.raises(ValueError):
        model(images[:1], [{"boxes": [[1.0, 2.0, 3.0]], "labels": [0]}])
    with pytest.raises(ValueError):
        model(images[:1], [{"boxes": [[1.0, 2.0, 30.0, 40.0]], "labels": [3]}])
    with pytest.raises(TypeError, match="list"):
        model(images[0])
    with pytest.raises(ValueError, match="uint8"):
        model([images[0].astype("float32")])


def test_state_dict_round_trip(make: Make, images: list[Any]) -> None:
    source, other = make(), make()
    changed(other.parameters())
    state = source.state_dict()
    assert set(state) == {name for name, _ in [*source.named_parameters(), *source.named_buffers()]}
    assert not torch.equal(logits(source, images), logits(other, images))
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert torch.equal(logits(source, images), logits(other, images))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    changed(other.parameters())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(logits(source, images), logits(other, images))


def test_load_state_dict_reports_names(make: Make) -> None:
    state = make().state_dict()
    state.pop("head.cls_logits.bias")
    state["head.extra"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"head\.cls_logits\.bias"):
        make().load_state_dict(state)
    report = make().load_state_dict(state, strict=False)
    assert report.missing_keys == ["head.cls_logits.bias"] and report.unexpected_keys == ["head.extra"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_dtype_reaches_cpp(make: Make, dtype: torch.dtype) -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert model.to(dtype) is model
    core = {**model.core.named_parameters(), **model.core.named_buffers()}
    for name, tensor in core.items():
        floating = before[name].is_floating_point()
        assert tensor.dtype == (dtype if floating else torch.int64), name
        torch.testing.assert_close(tensor.detach(), before[name].to(tensor.dtype), rtol=0, atol=0)


def test_part_to_dtype_reaches_cpp(make: Make) -> None:
    model = make()
    model.get_submodule("backbone").double()
    assert model.core.named_parameters()["backbone.stem.weight"].dtype == torch.float64
    assert model.core.named_buffers()["backbone.stem.norm.running_mean"].dtype == torch.float64
    assert model.core.named_parameters()["neck.lateral3.weight"].dtype == torch.float32


def test_to_converts_gradients(make: Make, images: list[Any]) -> None:
    model = make().train()
    total(model(images, TARGETS)).backward()
    model.double()
    weight = model.core.named_parameters()["backbone.stem.weight"]
    assert weight.grad is not None and weight.grad.dtype == torch.float64
    assert weight.grad.abs().sum() > 0


def test_memory_format_reaches_cpp(make: Make, images: list[Any]) -> None:
    model = make().eval()
    before = logits(model, images)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weight = model.core.named_parameters()["backbone.res2.0.conv1.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(logits(model, images), before, rtol=1e-4, atol=1e-4)


def test_meta_device_raises(make: Make) -> None:
    with pytest.raises(ValueError, match="meta"):
        make().to("meta")


def test_optimizer_step_is_seen(make: Make, images: list[Any]) -> None:
    model = make().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = total(model(images, TARGETS))
    first.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    before = logits(model, images)
    optimizer.step()
    assert not torch.allclose(before, logits(model, images))
    optimizer.zero_grad(set_to_none=True)
    assert all(tensor.grad is None for tensor in model.core.named_parameters().values())
    for _ in range(8):
        optimizer.zero_grad()
        total(model(images, TARGETS)).backward()
        optimizer.step()
    assert total(model(images, TARGETS)) < first


def test_requires_grad(make: Make, images: list[Any]) -> None:
    model = make().train()
    model.get_submodule("backbone").requires_grad_(False)
    total(model(images, TARGETS)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name


def test_frozen_stages(make: Make) -> None:
    frozen = {name for name, parameter in make("frozen_bn").named_parameters() if not parameter.requires_grad}
    assert frozen and all(name.startswith(("backbone.stem.", "backbone.res2.")) for name in frozen)


def test_deepcopy_is_independent(make: Make, images: list[Any]) -> None:
    model = make("frozen_bn").train()
    model.note = "kept"  # type: ignore[assignment]
    generator = torch.get_rng_state()
    twin = copy.deepcopy(model)
    assert torch.equal(generator, torch.get_rng_state())
    assert twin.config == model.config and twin.training and twin.core.training and twin.note == "kept"
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
    before = logits(model, images)
    assert torch.equal(logits(twin, images), before)
    changed(twin.parameters())
    assert torch.equal(logits(model, images), before)
    assert not torch.equal(logits(twin, images), before)


def test_deepcopy_with_optimizer(make: Make, images: list[Any]) -> None:
    model = make().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    before, twin_before = logits(model, images), logits(twin, images)
    total(twin(images, TARGETS)).backward()
    twin_optimizer.step()
    assert torch.equal(logits(model, images), before)
    assert not torch.equal(logits(twin, images), twin_before)


def test_pickle(make: Make, images: list[Any]) -> None:
    model = make().double().eval()
    model.get_submodule("head").requires_grad_(False)
    again = pickle.loads(pickle.dumps(model))
    assert isinstance(again, instseg.Model) and not again.training and not again.core.training
    assert again.config == model.config
    state = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name]), name
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    assert torch.equal(logits(again.float(), images), logits(model.float(), images))


def test_averaged_model(make: Make, images: list[Any]) -> None:
    model = make().train()
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    averaged.update_parameters(model)
    before = model.get_parameter("head.cls_logits.bias").detach().clone()
    changed(model.parameters(), by=1.0)
    averaged.update_parameters(model)
    twin = averaged.module
    assert isinstance(twin, instseg.Model)
    torch.testing.assert_close(twin.core.named_parameters()["head.cls_logits.bias"].detach(), before + 0.5)
    assert not torch.equal(logits(twin, images), logits(model, images))


def test_root_hooks(make: Make, images: list[Any]) -> None:
    model = make().eval()
    seen: list[str] = []
    model.register_forward_pre_hook(lambda module, args: seen.append("before"))
    model.register_forward_hook(lambda module, args, output: seen.append(f"after {len(output)}"))
    model(images)
    assert seen == ["before", "after 2"]


def test_train_flag(make: Make, images: list[Any]) -> None:
    model = make()
    mean = model.core.named_buffers()["backbone.stem.norm.running_mean"]
    for mode in (False, True):
        assert model.train(mode) is model
        assert model.training == model.core.training == mode
        assert all(module.training == mode for module in model.modules())
        before = mean.clone()
        logits(model, images)
        assert torch.equal(mean, before) == (not mode)
    model.eval()
    for module in model.modules():
        module.eval()
    with pytest.raises(RuntimeError, match="part"):
        model.get_submodule("backbone").train()


def test_autocast_reaches_cpp(make: Make, images: list[Any]) -> None:
    model = make().eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = model.intermediates(images)["res3"]
    assert half.dtype == torch.bfloat16


def test_assign_raises(make: Make) -> None:
    model = make()
    with pytest.raises(ValueError, match="assign"):
        model.load_state_dict(model.state_dict(), assign=True)
    with pytest.raises(ValueError, match="assign"):
        model.get_submodule("head").load_state_dict(model.get_submodule("head").state_dict(), assign=True)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with pytest.raises(ValueError, match="swap_module_params_on_conversion"):
            model.load_state_dict(model.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_functional_call_raises(make: Make, images: list[Any]) -> None:
    model = make().eval()
    values = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    with pytest.raises(RuntimeError, match="C\\+\\+ model does not see"):
        torch.func.functional_call(model, values, (images,))
    model(images)


def test_replaced_tensors_raise(make: Make, images: list[Any], tmp_path: Path) -> None:
    model = make().eval()
    scales = model.get_submodule("head.scales")
    scales.register_parameter("0", nn.Parameter(torch.ones(1)))
    with pytest.raises(RuntimeError, match=r"head\.scales\.0"):
        model(images)
    with pytest.raises(RuntimeError, match=r"head\.scales\.0"):
        model.save(tmp_path / "model.safetensors")

    model = make().eval()
    norm = model.get_submodule("backbone.stem.norm")
    norm.running_mean = torch.zeros(64)
    with pytest.raises(RuntimeError, match=r"backbone\.stem\.norm\.running_mean"):
        model.detect(images)

    model = make().eval()
    nn.utils.parametrizations.weight_norm(model.get_submodule("head.cls_logits"))
    with pytest.raises(RuntimeError, match=r"head\.cls_logits"):
        model(images)

    model = make().eval()
    model.add_module("more", nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="more "):
        copy.deepcopy(model)


def test_parts_are_not_modules_of_their_own(make: Make) -> None:
    part = make().get_submodule("backbone")
    with pytest.raises(RuntimeError, match="intermediates"):
        part(torch.zeros(1, 3, 64, 64))
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(part)


def test_reduce_mean(make: Make, images: list[Any]) -> None:
    model = make().train()
    plain = {name: float(value.detach()) for name, value in model(images, TARGETS).items()}
    seen: list[torch.Tensor] = []

    def double(value: torch.Tensor) -> torch.Tensor:
        seen.append(value)
        return value * 2

    model.set_reduce_mean(double)
    doubled = {name: float(value.detach()) for name, value in model(images, TARGETS).items()}
    assert seen and all(not value.requires_grad for value in seen)
    for name, value in plain.items():
        assert doubled[name] == pytest.approx(value / 2, rel=1e-4), name
    model.set_reduce_mean(None)
    assert float(model(images, TARGETS)["loss_cls"].detach()) == pytest.approx(plain["loss_cls"], rel=1e-4)

    def fails(value: torch.Tensor) -> torch.Tensor:
        raise KeyError("worker lost")

    model.set_reduce_mean(fails)
    with pytest.raises(KeyError, match="worker lost"):
        model(images, TARGETS)


def test_save_and_load(make: Make, images: list[Any], tmp_path: Path) -> None:
    model = make().eval()
    path = tmp_path / "model.safetensors"
    model.save(path, {"box_ap": 0.5})
    again = instseg.Model.load(path).eval()
    assert again.config == model.config
    assert torch.equal(logits(again, images), logits(model, images))
    with pytest.raises(OSError, match="absent"):
        instseg.Model.load(tmp_path / "absent.safetensors")
    with torch.no_grad():
        model.get_parameter("head.scales.1").fill_(float("nan"))
    model.save(path)
    with pytest.warns(RuntimeWarning, match=r"head\.scales\.1"):
        instseg.Model.load(path)


def _worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    torch.manual_seed(rank)  # DDP has to broadcast rank 0's parameters
    model = instseg.Model(tiny_config()).train()
    assert model.sync_normalizers()
    ddp = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    targets = [TARGETS[1], TARGETS[1]] if rank == 1 else [TARGETS[0], TARGETS[0]]
    images = [image // (rank + 1) for image in tiny_images()]
    for _ in range(3):
        optimizer.zero_grad()
        total(ddp(images, targets)).backward()
        optimizer.step()
    torch.save(model.state_dict(), f"{folder}/state{rank}.pt")
    dist.destroy_process_group()


def test_two_process_ddp(make: Make, tmp_path: Path) -> None:
    mp.spawn(_worker, args=(2, str(tmp_path)), nprocs=2)
    states = [torch.load(tmp_path / f"state{rank}.pt") for rank in (0, 1)]
    initial = make().state_dict()
    for name, tensor in states[0].items():
        if "running_" not in name:
            assert torch.equal(tensor, states[1][name]), name
    assert not torch.equal(states[0]["head.cls_logits.weight"], initial["head.cls_logits.weight"])
