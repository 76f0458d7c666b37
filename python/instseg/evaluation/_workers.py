# SPDX-License-Identifier: Apache-2.0
"""Runs a predictor over the images of a dataset, in this process or in several."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch

from instseg.data import CocoDataset, Problem
from instseg.evaluation._truth import Detection
from instseg.evaluation.evaluator import CocoEvaluator

if TYPE_CHECKING:
    from instseg import Instances, Predictor

_T = TypeVar("_T")
Progress = Callable[[int, int], None] | None

# Errors of a worker that are raised again as what they were; others become RuntimeError.
_ERRORS: dict[str, type[Exception]] = {e.__name__: e for e in (ValueError, TypeError, OSError, MemoryError)}


class Peers(Protocol):
    """Processes that run already, such as those of torchrun."""

    rank: int
    world: int

    def gather_objects(self, value: _T) -> list[_T]:
        """The values of all processes in the order of their ranks."""


@dataclass
class Predictions:
    """What was found in the images of a dataset, in its order."""

    image_ids: list[int] = field(default_factory=list)
    rows: list[Detection] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    kinds: tuple[str, ...] = ()
    evaluator: CocoEvaluator | None = None


@dataclass
class _Image:
    """One image: its detections, or why there are none."""

    index: int
    rows: list[Detection]
    kinds: tuple[str, ...] = ()
    problem: Problem | None = None


class _Run:
    """Predicts images one by one; with a ``limit`` each is matched at once."""

    def __init__(
        self,
        predictor: Predictor,
        dataset: CocoDataset,
        categories: list[int | None],
        limit: int | None,
    ) -> None:
        self.predictor, self.dataset, self.categories, self.limit = predictor, dataset, categories, limit
        self.evaluator: CocoEvaluator | None = None

    def image(self, index: int) -> _Image:
        record = self.dataset.images[index]
        try:
            pixels = self.dataset.read(index)
        except (OSError, ValueError) as error:
            return _Image(index, [], problem=Problem("image_unreadable", str(error), record.id))
        found = self.predictor(pixels)
        kinds = ("box", "mask") if found.masks is not None and self.dataset.has_masks else ("box",)
        done = _Image(index, _rows(found, record.id, self.categories), kinds)
        if self.limit is not None:
            if self.evaluator is None:
                self.evaluator = CocoEvaluator(self.dataset, kinds, self.limit)
            self.evaluator.add(record.id, done.rows)
        return done


def predict(
    predictor: Predictor,
    dataset: CocoDataset,
    categories: list[int | None],
    limit: int | None,
    progress: Progress = None,
) -> Predictions:
    """Detections of all images; categories: dataset category of each label, None: left out.

    limit: the detections an image that the evaluator counts; None: there is no evaluator.
    """
    run = _Run(predictor, dataset, categories, limit)
    images = []
    for i in range(len(dataset)):
        images.append(run.image(i))
        if progress is not None:
            progress(i + 1, len(dataset))
    return _collect(dataset, images, run.evaluator)


def predict_in_processes(
    predictor: Predictor,
    dataset: CocoDataset,
    categories: list[int | None],
    limit: int | None,
    workers: int,
    progress: Progress = None,
) -> Predictions:
    """The same by ``workers`` spawned processes; process w takes the images w, w + workers, ...

    Raises what a worker raised, and RuntimeError when one ends before its work is done.
    """
    try:
        job = pickle.dumps((predictor, dataset, categories, limit))
    except Exception as error:
        raise ValueError(f"[evaluate] the predictor cannot be sent to worker processes: {error}") from None
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    pipes: dict[Any, int] = {}
    try:
        for w in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, job, w, workers, threads), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes[ours] = w
        images, states = _receive(pipes, processes, len(dataset), progress)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
        for pipe in pipes:
            pipe.close()
    return _collect(dataset, images, _merged(dataset, [state for _, state in sorted(states.items())]))


def predict_with(
    predictor: Predictor,
    dataset: CocoDataset,
    categories: list[int | None],
    limit: int | None,
    peers: Peers,
    progress: Progress = None,
) -> Predictions:
    """The same by processes that all make this call; each gets the images of all."""
    run = _Run(predictor, dataset, categories, limit)
    share = range(peers.rank, len(dataset), peers.world)
    images = []
    for done, i in enumerate(share, 1):
        images.append(run.image(i))
        if progress is not None:
            progress(done, len(share))
    parts = peers.gather_objects((images, None if run.evaluator is None else run.evaluator.state()))
    states = [state for _, state in parts if state is not None]
    return _collect(dataset, [image for own, _ in parts for image in own], _merged(dataset, states))


def _merged(dataset: CocoDataset, states: Iterable[dict[str, Any]]) -> CocoEvaluator | None:
    evaluator = None
    for state in states:
        if evaluator is None:
            evaluator = CocoEvaluator(dataset, tuple(state["parts"]), state["max_detections"])
        evaluator.merge(state)
    return evaluator


def _receive(
    pipes: dict[Any, int], processes: list[Any], total: int, progress: Progress
) -> tuple[list[_Image], dict[int, Any]]:
    """Messages of all workers until each has said that it is done."""
    images: list[_Image] = []
    states: dict[int, Any] = {}
    open_pipes = dict(pipes)
    while open_pipes:
        for pipe in cast("list[Connection]", wait(list(open_pipes))):
            worker = open_pipes[pipe]
            try:
                what, content = pipe.recv()
            except (EOFError, ConnectionError):
                processes[worker].join(10)
                raise RuntimeError(
                    f"[evaluate] worker {worker + 1} of {len(processes)} ended with exit code "
                    f"{processes[worker].exitcode} before its work was done; if memory ran out, use fewer"
                ) from None
            if what == "image":
                images.append(content)
                if progress is not None:
                    progress(len(images), total)
            elif what == "done":
                del open_pipes[pipe]
                if content is not None:
                    states[worker] = content
            else:
                raise _ERRORS.get(what, RuntimeError)(content)
    return images, states


def _work(pipe: Connection, job: bytes, share: int, workers: int, threads: int) -> None:
    """Body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    try:
        torch.set_num_threads(threads)
        run = _Run(*pickle.loads(job))
        for i in range(share, len(run.dataset), workers):
            pipe.send(("image", run.image(i)))
        pipe.send(("done", None if run.evaluator is None else run.evaluator.state()))
    except Exception as error:
        pipe.send((type(error).__name__, str(error)))


def _collect(dataset: CocoDataset, images: Iterable[_Image], evaluator: CocoEvaluator | None) -> Predictions:
    out = Predictions(evaluator=evaluator)
    for image in sorted(images, key=lambda image: image.index):
        if image.problem is not None:
            out.problems.append(image.problem)
            continue
        out.image_ids.append(dataset.images[image.index].id)
        out.rows += image.rows
        out.kinds = max(out.kinds, image.kinds, key=len)
    return out


def _rows(instances: Instances, image_id: int, categories: list[int | None]) -> list[Detection]:
    rows = instances.to_coco(image_id)
    for row, label in zip(rows, instances.labels.tolist(), strict=True):
        row["category_id"] = categories[label]
    return [row for row in rows if row["category_id"] is not None]
