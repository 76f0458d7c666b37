# SPDX-License-Identifier: Apache-2.0
"""The processes of one training run: who this one is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

_T = TypeVar("_T")

# Others wait while the first worker evaluates; a process that ended is noticed at once all the same.
PATIENCE = timedelta(hours=6)

# Texts of torch when the other end of a connection is gone.
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Socket")


class PeerFailed(RuntimeError):
    """Another worker failed and has said why: nothing is left to report."""


class Workers:
    """Workers of a run, one process each; a single one without any communication by default.

    Control messages and CPU tensors travel by gloo, CUDA tensors by NCCL. As a context manager it ends the
    process group, and sees to it that one worker alone reports an error: in the others it becomes PeerFailed.

    Attributes:
        rank, world: number of this worker and of all.
        local_rank: number of this worker on its machine.
    """

    def __init__(self, rank: int = 0, world: int = 1, local_rank: int = 0) -> None:
        self.rank, self.world, self.local_rank = rank, world, local_rank
        self.group: dist.ProcessGroup | None = None  # of gradients; None: the default, gloo
        self._store: Any = None
        self._owns_group = False
        self._first: bool | None = None  # whether this worker was the first to report an error

    @classmethod
    def join(cls) -> Workers:
        """The workers that torchrun started, those of a process group that exists, or a single one.

        Raises ValueError when torchrun's environment is incomplete.
        """
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), local)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1 or "RANK" not in os.environ:
            return cls()
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ValueError(f"[Workers] WORLD_SIZE is {world}, but {missing[0]} is not set; use torchrun")
        from torch.distributed.rendezvous import rendezvous

        store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)
        workers = cls(rank, world, local)
        workers._store, workers._owns_group = store, True
        return workers

    @property
    def leads(self) -> bool:
        """Whether this worker writes the files and prints."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This worker's device for a recipe's ``device``; makes the group of its gradients.

        Raises ValueError, naming what is wrong, for a device that does not exist here.
        """
        device = _device(name, self.local_rank, self.world)
        if self.world > 1 and device.type == "cuda":
            torch.cuda.set_device(device)
            self.group = dist.new_group(backend="nccl", timeout=PATIENCE)
        return device

    # ---- tensors ----

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over the workers, a new tensor."""
        total = value.detach().clone()
        if self.world > 1:
            dist.all_reduce(total, group=self.group if value.is_cuda else None)
        return total

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over the workers, a new tensor."""
        return self.sum(value) / self.world

    def gather(self, value: torch.Tensor) -> list[torch.Tensor]:
        """The CPU tensors of all workers, of equal shape, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(values, value)
        return values

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrites ``tensors`` by those of the first worker."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=self.group if tensor.is_cuda else None)

    # ---- objects and agreement ----

    def gather_objects(self, value: _T) -> list[_T]:
        """The values of all workers in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: _T) -> _T:
        """The first worker's value."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def any_of(self, *values: bool) -> list[bool]:
        """For each value whether it is true for any worker."""
        if self.world == 1:
            return list(values)
        return [count > 0 for count in self.sum(torch.tensor([int(value) for value in values])).tolist()]

    def any(self, value: bool) -> bool:
        """Whether it is true for any worker."""
        return self.any_of(value)[0]

    def agreed(self, function: Callable[[], _T]) -> _T:
        """Its result; where it raises in any worker, all raise, the others PeerFailed."""
        try:
            result = function()
        except Exception:
            self._report()
            self.any(True)
            raise
        if self.any(False):
            raise PeerFailed("[Workers] another worker failed")
        return result

    def barrier(self) -> None:
        """Waits for all workers."""
        self.any(False)

    # ---- the end ----

    def _report(self) -> bool:
        """Whether this worker is the first of a run to report an error."""
        if self._first is None:
            try:
                self._first = self._store is None or self._store.add("instseg/errors", 1) == 1
            except RuntimeError:  # the store ended with its process
                self._first = True
        return self._first

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            # Ending the group here could wait for workers that are gone.
            if self.world > 1 and not isinstance(error, PeerFailed):
                self._raise_once(error)
            return
        if self._owns_group:
            dist.destroy_process_group()
            self._owns_group = False

    def _raise_once(self, error: Exception) -> None:
        if not self._report():
            raise PeerFailed("[Workers] another worker failed") from None
        who = f"worker {self.rank} of {self.world}"
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _GONE):
            reason = " ".join(str(error).split())[:120]
            raise RuntimeError(
                f"[Workers] {who} lost another one, which was killed or ran out of memory ({reason}); "
                "the last checkpoint is intact, run again to continue from it"
            ) from None
        if not self.leads:
            raise RuntimeError(f"{who}: {error}") from error


def _device(name: str, local_rank: int, world: int) -> torch.device:
    """Device of a worker: by its number on its machine unless ``name`` has a number."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"[Trainer] device '{name}' is unknown; use auto, cpu or cuda:<number>") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"[Trainer] device '{name}' is not available: this torch sees no GPU")
    if world > 1 and device.index is not None:
        raise ValueError(f"[Trainer] device '{name}' cannot be that of {world} workers; use cuda or auto")
    index = device.index if device.index is not None else local_rank
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"[Trainer] GPU {index} does not exist, this machine has {torch.cuda.device_count()}; "
            "start at most one worker for each"
        )
    return torch.device("cuda", index)
