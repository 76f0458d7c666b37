# SPDX-License-Identifier: Apache-2.0
"""One optimiser step: micro-batches, precision, several workers, clipping, moving average."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from instseg.data import Batch
from instseg.recipe import SolverRecipe
from instseg.training.ema import Ema
from instseg.training.optim import set_learning_rate
from instseg.training.scaling import micro_batches
from instseg.training.workers import Workers

if TYPE_CHECKING:
    from instseg import ImageBatch, InputConfig

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(RuntimeError):
    """Training cannot go on, e.g. a loss is not finite."""


@dataclass
class _Part:
    """What one forward pass takes; its number counts over workers and their micro-batches."""

    number: int
    images: ImageBatch
    targets: list[dict[str, Any]]
    image_ids: list[int]


@dataclass(frozen=True)
class StepResult:
    """Loss terms with their ``total``, means over all images of the step; the learning rate; and for fp16
    the new loss scale when a gradient overflowed, so that the weights did not change."""

    losses: dict[str, float]
    rate: float
    overflow_scale: float | None = None


class Stepper:
    """Makes optimiser steps of a model on this worker's share of each batch.

    A step's images are split into parts, one for each forward pass of each worker. Loss normalisers are
    averaged over the parts before any loss is divided by them, so a step is the same however many workers
    and micro-batches there are. What a loss draws at random depends on seed, iteration and part.

    Raises ValueError for a precision that the device has not, or images that cannot be shared out.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        solver: SolverRecipe,
        input: InputConfig,
        workers: Workers,
        device: torch.device,
        seed: int,
    ) -> None:
        self.model, self.optimizer, self.solver, self.workers = model, optimizer, solver, workers
        self.input, self.device, self.seed = input, device, seed
        self.micro_batches = micro_batches(solver, workers.world)
        self.parts = self.micro_batches * workers.world
        self.dtype = _autocast_dtype(solver.amp, device)
        fp16 = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        self._normalizers: torch.Tensor | None = None  # of the whole step, where they have to be known first
        self._network: torch.nn.Module = model
        if workers.world > 1:
            self._share()
        if self.parts > 1:
            of_losses: Any = model
            of_losses.set_reduce_mean(self._mean_normalizers, self.parts, self.micro_batches)
        # After the parameters of all workers have become those of the first.
        self.ema = Ema(model, solver.ema_decay) if solver.ema_decay is not None else None

    def _share(self) -> None:
        """Gradients and, where wanted, batch norms over all workers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has a successor in torch 2.13
            self._network = DistributedDataParallel(
                self.model,  # without device_ids: targets stay where they are
                broadcast_buffers=False,
                process_group=self.workers.group,
                gradient_as_bucket_view=True,
            )
        if self.solver.sync_bn:
            model: Any = self.model
            model.sync_batch_norm(self.workers.sum)

    def __call__(self, batch: Batch) -> StepResult:
        """One step on this worker's images. Raises TrainingError, before the weights change, in all workers
        when a loss of any is not finite."""
        rate = set_learning_rate(self.optimizer, batch.iteration, self.solver)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._split(batch)
        self._share_normalizers(parts)
        own: list[torch.Tensor] = []
        for part in parts:
            last = part is parts[-1]
            with self._exchange(last):
                terms = self._losses(part, batch.iteration)
                stacked = torch.stack([term.float().reshape(()) for term in terms.values()])
                total = stacked.sum()
                self.scaler.scale(total / len(parts)).backward()  # type: ignore[no-untyped-call]
            own.append(torch.cat([stacked.detach(), total.detach().reshape(1)]))
        losses = self._checked([*terms, "total"], torch.stack(own).cpu(), batch, parts)
        overflow = self._update(batch.iteration, batch.image_ids)
        return StepResult(losses, rate, overflow)

    # ---- the parts ----

    def _split(self, batch: Batch) -> list[_Part]:
        from instseg import ops

        size = len(batch.images) // self.micro_batches
        parts = []
        for k in range(self.micro_batches):
            some = slice(k * size, (k + 1) * size)
            images = ops.make_batch(batch.images[some], self.input, batch.original_sizes[some])
            number = self.workers.rank * self.micro_batches + k
            parts.append(_Part(number, images, batch.targets[some], batch.image_ids[some]))
        return parts

    def _share_normalizers(self, parts: list[_Part]) -> None:
        """With several micro-batches, the mean normalisers of the step have to be known before the first."""
        if len(parts) > 1:
            model: Any = self.model
            own = torch.stack([model.normalizers(part.images, part.targets) for part in parts])
            self._normalizers = self.workers.mean(own.mean(0))

    def _mean_normalizers(self, own: torch.Tensor) -> torch.Tensor:
        return self.workers.mean(own) if self._normalizers is None else self._normalizers.to(own)

    def _losses(self, part: _Part, iteration: int) -> Mapping[str, torch.Tensor]:
        torch.manual_seed(_seed_of(self.seed, iteration, part.number))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return self._network(part.images, part.targets)  # type: ignore[no-any-return]

    def _exchange(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Leaves the exchange of gradients to the last micro-batch."""
        if not last and isinstance(self._network, DistributedDataParallel):
            return self._network.no_sync()
        return contextlib.nullcontext()

    # ---- the end of a step ----

    def _checked(
        self, names: list[str], own: torch.Tensor, batch: Batch, parts: list[_Part]
    ) -> dict[str, float]:
        """Means over all parts of the loss terms [micro-batches, terms] of each worker."""
        every = torch.cat(self.workers.gather(own)).double()
        broken = (~torch.isfinite(every)).nonzero().tolist()
        if broken:
            ids = self.workers.gather_objects([part.image_ids for part in parts])
            every_ids = [of_part for of_worker in ids for of_part in of_worker]
            numbers = sorted({number for number, _ in broken})
            images = [i for number in numbers for i in every_ids[number]]
            part, term = broken[0]
            half = ", train with solver.amp=bf16" if self.dtype == torch.float16 else ""
            raise TrainingError(
                f"[Trainer] {names[term]} is {every[part, term].item()} at iteration {batch.iteration} "
                f"on images {images}; check these images' boxes, lower solver.base_lr or set "
                f"solver.clip_norm{half}"
            )
        return dict(zip(names, every.mean(0).tolist(), strict=True))

    def _update(self, iteration: int, image_ids: list[int]) -> float | None:
        """Changes the weights; the lower loss scale where gradients overflowed and nothing changed."""
        if self.solver.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.solver.clip_norm)
            if not self.scaler.is_enabled() and not torch.isfinite(norm):
                # Equal in all workers, whose gradients are the same here.
                raise TrainingError(
                    f"[Trainer] the gradient's norm is {norm.item()}, with finite losses, at iteration "
                    f"{iteration} on images {image_ids}; lower solver.base_lr or train with solver.amp=none"
                )
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        after = self.scaler.get_scale()
        if after < before:
            return float(after)
        if self.ema is not None:
            self.ema.update()
        return None

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Loss scale and moving average, as far as they are in use."""
        return {
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
            "ema": self.ema.state_dict() if self.ema is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> str | None:
        """Goes on from a state; returns what it did not have."""
        if self.scaler.is_enabled() and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            if not state.get("ema"):
                self.ema = Ema(self.model, self.ema.decay)
                return "the checkpoint has no moving average; it begins with the weights of the checkpoint"
            self.ema.load_state_dict(state["ema"])
        return None


def _seed_of(seed: int, iteration: int, part: int) -> int:
    return int(
        np.random.SeedSequence([seed, iteration, part]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def _autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    if amp == "fp16" and device.type != "cuda":
        raise ValueError("[Trainer] solver.amp=fp16 needs a GPU; use bf16, which CPUs have too, or none")
    if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("[Trainer] this GPU has no bf16; set solver.amp to fp16 or none")
    return _DTYPES.get(amp)
