# SPDX-License-Identifier: Apache-2.0
"""Endless training batches that depend on the seed and the iteration alone, so that resuming is exact."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from instseg.data.coco import CocoDataset
from instseg.data.records import Problem
from instseg.data.transforms import Augmentation, Targets

# Attempts to replace an unreadable image before giving up on the dataset.
MAX_REPLACEMENTS = 20


@dataclass
class Batch:
    """One training step's data.

    Attributes:
        iteration: the step it belongs to.
        images: uint8 [H, W, 3] tensors (RGB) at network size, of different sizes.
        targets: per image boxes [G, 4] float32 xyxy in its pixels, labels [G] int64 and, where the dataset
            gives them, masks (MaskTargets) and semantic [H, W].
        image_ids: ids from the annotation file.
        original_sizes: height and width of each image before augmentation.
        problems: images that could not be read and were replaced.
    """

    iteration: int
    images: list[torch.Tensor]
    targets: list[Targets]
    image_ids: list[int]
    original_sizes: list[tuple[int, int]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def batch_plan(
    landscape: Sequence[bool], batch_size: int, seed: int, start: int = 0
) -> Iterator[tuple[int, list[int]]]:
    """Yields (iteration, dataset indices) forever, beginning at iteration ``start``.

    Indices come from one shuffled pass over the dataset after the other; a batch is made when ``batch_size``
    images of the same orientation have come by.

    Args:
        landscape: for each image whether it is wider than high.
        batch_size: images in a batch.
        seed: of the shuffling.
    """
    if not landscape:
        raise ValueError("[batch_plan] the dataset has no images to train on")
    waiting: dict[bool, list[int]] = {False: [], True: []}
    iteration = epoch = 0
    while True:
        for i in np.random.default_rng([seed, epoch]).permutation(len(landscape)).tolist():
            group = waiting[landscape[i]]
            group.append(i)
            if len(group) == batch_size:
                if iteration >= start:
                    yield iteration, list(group)
                iteration += 1
                group.clear()
        epoch += 1


class _Plan(Sampler[tuple[int, list[int]]]):
    def __init__(self, landscape: Sequence[bool], batch_size: int, seed: int, start: int, stop: int) -> None:
        self._arguments = (landscape, batch_size, seed, start)
        self._stop = stop

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for iteration, indices in batch_plan(*self._arguments):
            if iteration >= self._stop:
                return
            yield iteration, indices


class _Batches(Dataset["Batch | str"]):
    """Maps (iteration, indices) to a Batch, or to an error message; runs inside the worker processes."""

    def __init__(
        self,
        dataset: CocoDataset,
        augmentation: Augmentation,
        landscape: Sequence[bool],
        seed: int,
        share: tuple[int, int],
    ) -> None:
        self._dataset = dataset
        self._augmentation = augmentation
        self._landscape = np.asarray(landscape)
        self._seed = seed
        self._share = share

    def __getitem__(self, request: tuple[int, list[int]]) -> Batch | str:
        iteration, indices = request
        batch = Batch(iteration, [], [], [])
        number, count = self._share
        size = len(indices) // count
        for position in range(number * size, (number + 1) * size):
            i = indices[position]
            if not self._add(batch, i, np.random.default_rng([self._seed, iteration, position])):
                # An exception would reach the trainer wrapped in the worker's traceback.
                return (
                    f"[training_batches] {MAX_REPLACEMENTS} images in a row could not be read, the last one: "
                    f"{batch.problems[-1].message}; run 'instseg data check'"
                )
        return batch

    def _add(self, batch: Batch, i: int, generator: np.random.Generator) -> bool:
        peers = np.flatnonzero(self._landscape == self._landscape[i])
        for _ in range(MAX_REPLACEMENTS):
            record = self._dataset.images[i]
            try:
                pixels = self._dataset.read(i)
            except (OSError, ValueError) as error:
                batch.problems.append(Problem("image_unreadable", str(error), record.id))
                i = int(generator.choice(peers))
                continue
            image, targets = self._augmentation(pixels, self._dataset.targets(i), generator)
            batch.images.append(image)
            batch.targets.append(targets)
            batch.image_ids.append(record.id)
            batch.original_sizes.append((record.height, record.width))
            return True
        return False


def training_batches(
    dataset: CocoDataset,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Batches of the iterations ``start`` .. ``stop - 1``, in order.

    The batch of an iteration depends only on the dataset, the augmentation, ``batch_size``, ``seed`` and the
    iteration, not on ``start`` or ``workers``. An unreadable image is reported in ``Batch.problems`` and
    replaced by another one of the same orientation.

    Args:
        workers: processes that prepare batches; 0 prepares them in this process.
        share: (n, of): only the n-th of so many equal parts of each batch is prepared, the very images that
            are there in the whole batch.

    Raises ValueError when the dataset is empty, ``batch_size`` is no multiple of the number of shares, or one
    unreadable image follows the other.
    """
    if not len(dataset):
        raise ValueError(f"[training_batches] no images to train on in '{dataset.annotations_path}'")
    if batch_size % share[1]:
        raise ValueError(f"[training_batches] batch_size {batch_size} has no {share[1]} equal parts")
    landscape = [image.width > image.height for image in dataset.images]
    options: dict[str, Any] = {"num_workers": workers, "prefetch_factor": 4} if workers > 0 else {}
    loader: DataLoader[Batch | str] = DataLoader(
        _Batches(dataset, augmentation, landscape, seed, share),
        sampler=_Plan(landscape, batch_size, seed, start, stop),
        batch_size=None,
        collate_fn=_identity,
        worker_init_fn=_quiet_worker,
        # Its own: a draw from the default one would change the numbers of a resumed run.
        generator=torch.Generator(),
        **options,
    )
    for item in loader:
        if isinstance(item, str):
            raise ValueError(item)
        yield item


def _identity(item: Any) -> Any:
    return item


def _quiet_worker(worker: int) -> None:
    """Leaves signals to the main process, which finishes its iteration first and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
