# SPDX-License-Identifier: Apache-2.0
"""The C++ model as a torch.nn.Module: a shell that registers the very tensors C++ computes with."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import torch
from torch import nn

from . import _C
from ._shell import Node, Shared
from .image import ImageLike
from .results import Instances

if TYPE_CHECKING:
    from .importers import Report
    from .predictor import NetworkSize, Predictor

ReduceMean: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
ReduceSum: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
TargetLike: TypeAlias = Mapping[str, Any]
PathLike: TypeAlias = "str | os.PathLike[str]"

#: Rebuilt from the C++ model, hence in no copy or pickle.
_SHELL = ("_core", "_nodes", "_lowered", "_parameters", "_buffers", "_modules")


class Model(Shared):
    """A trainable model, built from a ModelConfig, a dict of its fields, or the name of a preset.

    Optimisers, state_dict, deepcopy, pickle, EMA, `.to()`, autocast, hooks on the model and
    DistributedDataParallel work as with any torch.nn.Module. Not possible, and refused: exchanging
    parameter objects (load_state_dict with assign=True, functional_call, parametrizations, pruning, FSDP),
    calling a part of the model or giving it a mode of its own. Hooks on parts never run.
    """

    #: What an import matched (instseg.convert); None for other models.
    report: Report | None = None
    #: State of the weights and the predictor made of them.
    _lowered: tuple[object, Predictor] | None = None

    def __init__(self, config: _C.ModelConfig | Mapping[str, Any] | str) -> None:
        super().__init__()
        self._adopt(_C.make_model(_resolve(config)))
        self.sync_normalizers()

    @classmethod
    def load(cls, path: PathLike) -> Model:
        """The model of a model file. OSError or ValueError name file and tensor; NaN warns."""
        core, messages = _C.load_model(os.fspath(path))
        for message in messages:
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return cls._wrap(core)

    def save(self, path: PathLike, summary: Mapping[str, Any] | None = None, dtype: str = "float32") -> None:
        """Writes a model file; `summary` (what it was trained on, its accuracy) is kept in it as JSON.

        `dtype` "float16" rounds parameters, not buffers; load() gives float32. ValueError beyond 65504.
        """
        self._check_tensors()
        _C.save_model(os.fspath(path), self._core, json.dumps(dict(summary or {})), dtype)

    @property
    def config(self) -> _C.ModelConfig:
        """A copy of the configuration; a model's configuration never changes."""
        return self._core.config

    @property
    def core(self) -> _C.Model:
        """The C++ model, after a check that its tensors are still the registered ones."""
        self._check_tensors()
        return self._core

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    # ---- Inference on images of any size ----

    @overload
    def predict(
        self,
        images: list[ImageLike] | tuple[ImageLike, ...],
        score_threshold: float | None = ...,
        size: NetworkSize = ...,
        output_size: tuple[int, int] | None = ...,
        batch_size: int = ...,
        *,
        precision: str = ...,
    ) -> list[Instances]: ...
    @overload
    def predict(
        self,
        images: ImageLike,
        score_threshold: float | None = ...,
        size: NetworkSize = ...,
        output_size: tuple[int, int] | None = ...,
        batch_size: int = ...,
        *,
        precision: str = ...,
    ) -> Instances: ...

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        score_threshold: float | None = None,
        size: NetworkSize = "model",
        output_size: tuple[int, int] | None = None,
        batch_size: int = 1,
        *,
        precision: str = "fp32",
    ) -> Instances | list[Instances]:
        """Detections of one image, or of each of a list, with the current weights in inference form.

        images: a path, an RGB uint8 [H, W, 3] array or tensor, a PIL image, or a list of them.
        score_threshold: drops detections below it; those below the model's own are never there.
        size: (short, long) limits of the image's sides in the network, in pixels; "model": the model's own;
        None: the pixels as they are, only normalised and padded (also float32 tensors in 0..255).
        output_size: (height, width) that boxes and masks refer to, for every image; default: of each.
        batch_size: images per forward pass. precision: "fp32", "bf16", or "fp16" on a GPU.
        Raises OSError for an image that cannot be read; TypeError or ValueError, in one line, for bad values.

        Norms always use their stored statistics; mode and gradients of the model are left alone. The
        inference form (a packed copy of the weights) is kept until weights change; refresh() and train() or
        eval() drop it. A change that torch does not count, a write through `.data` or numpy, needs one of
        these.
        """
        from .predictor import check_call

        check_call(score_threshold, size, output_size, batch_size)
        return self._predictor(precision)(
            images,  # type: ignore[arg-type]
            score_threshold=score_threshold,
            size=size,
            output_size=output_size,
            batch_size=batch_size,
        )

    def refresh(self) -> None:
        """Drops the inference form of the weights; the next predict() makes a new one."""
        self._lowered = None

    def _predictor(self, precision: str) -> Predictor:
        """The predictor of the current weights; a new one only when they have changed."""
        from .predictor import Predictor

        tensors = [*self.parameters(), *self.buffers()]
        # Tensors made in inference mode count no versions; they get a predictor for each call.
        counted = not any(tensor.is_inference() for tensor in tensors)
        state = precision, self.device, [(t.data_ptr(), t._version) for t in tensors if counted]
        kept = self._lowered
        if kept is not None and counted and kept[0] == state:
            return kept[1]
        self._check_dtype()
        kept = self._lowered = None  # the old copy of the weights goes before the new one comes
        predictor = Predictor(self, device=self.device, precision=precision)
        self._lowered = state, predictor
        return predictor

    # ---- Computation ----

    def forward(
        self, images: _C.ImageBatch | Sequence[ImageLike], targets: Sequence[TargetLike] | None = None
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Loss terms in training mode with `targets`, detections otherwise.

        images: an ImageBatch, or RGB uint8 [H, W, 3] images that already have network size (they are only
        normalised and padded). targets: per image, in those pixels, {"boxes": [G, 4] float32 x1, y1, x2, y2,
        "labels": [G] int64, "masks": MaskTargets or bitmaps [G, H, W], "semantic": [H, W] uint8 or int64,
        class + 1 or 0 for none}; masks and semantic as far as the model's losses need them.
        """
        if self.training and targets is not None:
            return self.losses(images, targets)
        return self.detect(images)

    def losses(
        self, images: _C.ImageBatch | Sequence[ImageLike], targets: Sequence[TargetLike]
    ) -> dict[str, torch.Tensor]:
        """Loss terms by name, weighted float32 scalars whose sum is minimised; every parameter takes part."""
        self._lowered = None  # batch statistics change, and training needs the memory
        batch = self.batch(images)
        return self.core.losses(batch, [self._targets(target) for target in targets])

    def detect(self, images: _C.ImageBatch | Sequence[ImageLike]) -> list[Instances]:
        """Detections of each image, without gradients, in the batch's original coordinates."""
        config = self.config
        return [Instances.from_core(found, config) for found in self.core.detect(self.batch(images))]

    def intermediates(self, images: _C.ImageBatch | Sequence[ImageLike]) -> dict[str, torch.Tensor]:
        """Tensors on the way: "input", "res3", "p3", "logits.p3", "reg.p3" (network units), "ctr.p3", ..."""
        return self.core.intermediates(self.batch(images))

    def batch(self, images: _C.ImageBatch | Sequence[ImageLike]) -> _C.ImageBatch:
        """What forward makes of its `images`, on the model's device."""
        self._check_dtype()
        if not isinstance(images, _C.ImageBatch):
            from .ops import make_batch

            if not isinstance(images, (list, tuple)):
                raise TypeError(
                    f"[Model] images must be an ImageBatch or a list, got {type(images).__name__}"
                )
            images = make_batch(images, self.config.input)
        return images.to(self.device)

    def _check_dtype(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"[Model] computes with float32 parameters, but {name} is {parameter.dtype}; call "
                    "model.float() (autocast and precision= of predict compute in bfloat16 or float16)"
                )

    def _targets(self, target: TargetLike) -> _C.Targets:
        boxes = torch.as_tensor(target["boxes"], dtype=torch.float32)
        labels = torch.as_tensor(target["labels"], dtype=torch.int64)
        masks, semantic = target.get("masks"), target.get("semantic")
        if masks is not None and not isinstance(masks, _C.MaskTargets):
            masks = _C.MaskTargets.from_bitmaps(torch.as_tensor(masks))
        semantic = None if semantic is None else torch.as_tensor(semantic)
        return _C.Targets(boxes.reshape(0, 4) if boxes.numel() == 0 else boxes, labels, masks, semantic)

    # ---- Distributed training ----

    def normalizers(
        self, images: _C.ImageBatch | Sequence[ImageLike], targets: Sequence[TargetLike]
    ) -> torch.Tensor:
        """What losses() divides by, [K] float32: counts of positives and sums of their weights.

        They follow from the targets alone; the network does not run.
        """
        return self.core.normalizers(self.batch(images), [self._targets(target) for target in targets])

    def set_reduce_mean(self, fn: ReduceMean | None, parts: int = 1, micro_batches: int = 1) -> None:
        """`fn` averages the normalisers [K] of each losses() over the `parts` of a training step.

        A step consists of `micro_batches` calls of losses() here and as many in each other worker, `parts` in
        all; the mean of their losses is then the loss of one large batch. None: no averaging.
        """
        self._core.set_reduce_mean(fn, parts, micro_batches)

    def sync_batch_norm(self, fn: ReduceSum | None) -> None:
        """Batch norms that train their statistics share them; `fn` sums a float64 vector over workers.

        It runs once for each norm in the forward and once in the backward pass. None: each worker its own.
        """
        self._core.sync_batch_norm(fn)

    def sync_normalizers(self) -> bool:
        """Averages loss normalisers over the default process group if there is one; returns if so."""
        import torch.distributed as dist

        active = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if active:
            self.set_reduce_mean(_mean_over_workers, dist.get_world_size())
        else:
            self.set_reduce_mean(None)
        return active

    # ---- The shell ----

    @classmethod
    def _wrap(cls, core: _C.Model) -> Model:
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._adopt(core)
        model.sync_normalizers()
        return model

    def _adopt(self, core: _C.Model) -> None:
        """Registers the tensors of `core` under their dotted names."""
        self._core = core
        for name, tensor in core.named_parameters().items():
            # nn.Parameter(tensor) would be another tensor: gradients would not arrive here.
            tensor._is_param = True
            owner, leaf = self._owner(name)
            owner.register_parameter(leaf, tensor)  # type: ignore[arg-type]
        for name, tensor in core.named_buffers().items():
            owner, leaf = self._owner(name)
            owner.register_buffer(leaf, tensor)
        self._nodes = [
            (name, node, dict(node._parameters), dict(node._buffers), dict(node._modules))
            for name, node in self.named_modules()
        ]
        self.train(core.training)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        *path, leaf = name.split(".")
        node: nn.Module = self
        for part in path:
            if part not in node._modules:
                node.add_module(part, Node())
            child = node._modules[part]
            assert child is not None
            node = child
        return node, leaf

    def _check_tensors(self) -> None:
        """Raises when a registered tensor is no longer the one C++ computes with."""
        for name, node, *adopted in self._nodes:
            for now, then in zip((node._parameters, node._buffers, node._modules), adopted, strict=True):
                if len(now) == len(then) and all(now.get(key) is value for key, value in then.items()):
                    continue
                changed = sorted(key for key in {*now, *then} if now.get(key) is not then.get(key))
                raise RuntimeError(
                    f"[Model] {'.'.join(filter(None, (name, changed[0])))} was added, removed or replaced, "
                    "which the C++ model does not see; change the values in place "
                    "(functional_call, parametrizations, pruning and FSDP are not supported)"
                )

    def train(self, mode: bool = True) -> Model:
        """Sets training (True) or evaluation mode, here and in C++."""
        if not isinstance(mode, bool):
            raise ValueError(f"[Model.train] mode must be a bool, got {mode!r}")
        for module in self.modules():
            module.training = mode
        self._core.train(mode)
        self._lowered = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._check_tensors()
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {
            "attributes": {key: value for key, value in self.__dict__.items() if key not in _SHELL},
            "config": self.config.to_json(),
            "tensors": {name: tensor.detach() for name, tensor in tensors.items()},
            "frozen": [name for name, tensor in self.named_parameters() if not tensor.requires_grad],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__init__(self)
        with torch.random.fork_rng(devices=[]):  # a copy must not advance the generator
            self._adopt(_C.make_model(_C.ModelConfig.from_json(state["config"])))
        self.__dict__.update(state["attributes"])
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, tensor in tensors.items():
            tensor.data = state["tensors"][name]
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])
        self.train(self.training)
        self.sync_normalizers()

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        twin = self.__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        # An optimiser copied along with the model must follow to the new parameters.
        memo.update({id(old): new for old, new in zip(self.parameters(), twin.parameters(), strict=True)})
        return twin


def _resolve(config: _C.ModelConfig | Mapping[str, Any] | str) -> _C.ModelConfig:
    if isinstance(config, str):
        return _C.find_preset(config).config
    if isinstance(config, Mapping):
        return _C.ModelConfig.from_dict(dict(config))
    if isinstance(config, _C.ModelConfig):
        return config
    raise TypeError(
        f"[Model] config must be a ModelConfig, a dict or a preset's name, got {type(config).__name__}"
    )


def _mean_over_workers(value: torch.Tensor) -> torch.Tensor:
    import torch.distributed as dist

    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
