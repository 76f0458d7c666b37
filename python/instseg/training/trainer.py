# SPDX-License-Identifier: Apache-2.0
"""The training loop: from a recipe to a model file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from instseg.data import Augmentation, Batch, training_batches
from instseg.recipe import Recipe
from instseg.training.checkpoint import (
    Checkpoint,
    differences,
    random_state,
    restore_random_state,
)
from instseg.training.datasets import training_data, validation_data
from instseg.training.failures import data_failure, lost_data_worker, refuse_other_model
from instseg.training.logs import TrainingLog
from instseg.training.optim import build_optimizer
from instseg.training.report import announcement, summary
from instseg.training.run_folder import BEST_MODEL, FINAL_MODEL, RunFolder
from instseg.training.scaling import scaled
from instseg.training.step import Stepper, StepResult, TrainingError
from instseg.training.stopping import StopSignal
from instseg.training.usage import peak_memory
from instseg.training.weights import load_weights
from instseg.training.workers import Workers

if TYPE_CHECKING:
    from instseg import Model, ModelConfig

__all__ = ["BEST_MODEL", "FINAL_MODEL", "Trainer", "TrainingError", "build_model"]

# Recipe fields that may change between the parts of a run without changing its numbers.
_HARMLESS = (
    "name",
    "data.workers",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "pictures_every",
    "tensorboard",
    "wandb",
)


def build_model(config: ModelConfig) -> Model:
    """A freshly initialised model."""
    from instseg import Model

    return Model(config)


class Trainer:
    """Trains the model of a recipe.

    Files in ``output_dir``: recipe.yaml, checkpoint_*.pt, log.csv, metrics.csv, tensorboard/, summary.json,
    model.safetensors (last iteration) and model_best.safetensors (best mask AP, box AP without masks). With
    several workers (torchrun) the first one alone reads weights and checkpoints, writes and prints.

    Args:
        recipe: what to do.
        output_dir: folder of the run, created when missing.
        resume: continue from the newest checkpoint in ``output_dir``; the losses are those of an
            uninterrupted run. False starts over and removes the folder's old checkpoints.
        quiet: print nothing.
        workers: the processes of the run. Default: Workers.join().

    Raises:
        OSError: a data or weights file is missing.
        ValueError: a recipe field does not fit the data, the weights, the checkpoint or the workers.
    """

    def __init__(
        self,
        recipe: Recipe,
        output_dir: str | os.PathLike[str],
        *,
        resume: bool = True,
        quiet: bool = False,
        workers: Workers | None = None,
    ) -> None:
        self.recipe = recipe
        self.workers = Workers.join() if workers is None else workers
        self.console = Console(stderr=True, quiet=quiet or not self.workers.leads)
        self.solver, self.scaling = scaled(recipe.solver)
        self.device = self.workers.device(recipe.device)
        self.train_data = training_data(recipe)
        self.val_data = validation_data(recipe, self.train_data)
        self.config = recipe.model_settings(self.train_data)
        self.folder = RunFolder(output_dir)
        self.output_dir = self.folder.path
        if self.workers.leads:
            self.folder.prepare()

        self.iteration = 0
        self.progress: dict[str, Any] = {"best": None, "seconds": 0.0}
        checkpoint = self.folder.newest_checkpoint(self._say) if resume and self.workers.leads else None
        checkpoint = self.workers.of_first(checkpoint)
        if checkpoint is not None:
            refuse_other_model(checkpoint.config, self.config, self.output_dir)
        torch.manual_seed(recipe.seed)
        self.model = build_model(self.config)
        if checkpoint is None and self.workers.leads:
            self._say(load_weights(self.model, recipe.weights))
        self.model.to(self.device)
        if self.solver.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, self.solver)
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            self.solver,
            self.config.input,
            self.workers,
            self.device,
            recipe.seed,
        )
        if checkpoint is not None:
            self._restore(checkpoint)
        elif self.workers.leads:
            self.folder.clear()
        self._saved = self.iteration  # iteration of the newest checkpoint
        self._unreadable: set[int | None] = set()

    # ---- the loop ----

    def run(self) -> dict[str, Any]:
        """Trains to the last iteration, evaluates and writes the model; returns the content of summary.json.

        Raises TrainingError when a loss is not finite or a data process ended, and KeyboardInterrupt after
        saving a checkpoint when any worker was interrupted by Ctrl-C or SIGTERM.
        """
        done = self.workers.of_first(self._finished())
        if done is not None:
            self._say(f"already trained: {self.output_dir / FINAL_MODEL}")
            return done
        if self.workers.leads:
            self.folder.write_recipe(self.recipe.model_dump(mode="json"))
        for line in announcement(self):
            self._say(line)
        try:
            with self._open_log() as log, StopSignal() as stop:
                metrics = self._loop(log, stop)
        except RuntimeError as error:
            lost = lost_data_worker(error, self.iteration)
            if lost is None:
                raise
            raise lost from None
        return self._finish(metrics)

    def _loop(self, log: TrainingLog | None, stop: StopSignal) -> dict[str, float] | None:
        total = self.solver.iterations
        batches = self._batches()
        self.model.train()
        metrics, evaluated = None, -1
        while self.iteration < total:
            began = time.monotonic()
            batch = self._fetch(batches)
            waited = time.monotonic() - began
            result = self.step(batch)
            self.iteration += 1
            seconds = time.monotonic() - began
            self.progress["seconds"] += seconds
            self._note(log, batch, result, {"seconds": seconds, "data_seconds": waited})
            if self._due(self.recipe.eval_every):
                metrics, evaluated = self._evaluate(log), self.iteration
            stopped, troubled = self.workers.any_of(stop.requested, bool(batch.problems))
            if troubled:
                self._report_problems(log, batch)
            if self._due(self.recipe.checkpoint_every) or self.iteration == total or stopped:
                self._save_checkpoint()
            if stopped and self.iteration < total:
                self._message(log, f"interrupted; run again to continue from iteration {self.iteration}")
                self.workers.barrier()  # the others must not end while the first one still writes
                raise KeyboardInterrupt
        if evaluated != self.iteration:
            metrics = self._evaluate(log)
        if log is not None:
            log.finished(self.progress["seconds"], self.device)
        return metrics

    def step(self, batch: Batch) -> StepResult:
        """One optimiser step on this worker's images."""
        return self.stepper(batch)

    def _batches(self) -> Iterator[Batch]:
        data = self.recipe.data
        return training_batches(
            self.train_data,
            Augmentation.of(data, self.config.input),
            batch_size=self.solver.batch_size,
            seed=self.recipe.seed,
            start=self.iteration,
            stop=self.solver.iterations,
            workers=data.workers,
            share=(self.workers.rank, self.workers.world),
        )

    def _fetch(self, batches: Iterator[Batch]) -> Batch:
        def following() -> Batch:
            try:
                return next(batches)
            except Exception as error:
                raise data_failure(error, self.iteration) from None

        try:
            return self.workers.agreed(following)
        except Exception:
            # Nothing of this iteration has happened yet, so that what was reached can be kept.
            if self.iteration > self._saved:
                self._save_checkpoint()
            with contextlib.suppress(RuntimeError):
                self.workers.barrier()
            raise

    def _due(self, every: int) -> bool:
        return every > 0 and self.iteration % every == 0

    # ---- evaluation and files ----

    def _evaluate(self, log: TrainingLog | None) -> dict[str, float] | None:
        """Evaluates, keeps the best model; the numbers, None without data."""
        if self.val_data is None:
            return None
        from instseg import Predictor
        from instseg.evaluation import evaluate, summary_line

        self.model.eval()
        with self._trained():
            predictor = Predictor(self.model, device=str(self.device))
            result = evaluate(predictor, self.val_data, workers=self.workers)
            metrics = {name: value for name, value in result.items() if isinstance(value, float)}
            if log is not None:
                for problem in result["problems"]:
                    log.message(f"skipped in evaluation: {problem}")
                log.message(f"iteration {self.iteration}: {summary_line(metrics)}")
                self._keep_best(metrics)
                with self.folder.logging():
                    log.metrics(self.iteration, metrics)
                    log.validation_pictures(self.iteration, predictor, self.val_data)
                log.paused()
        self.model.train()
        return metrics

    @contextlib.contextmanager
    def _trained(self) -> Iterator[None]:
        """The model as it is evaluated and saved: the moving average where there is one, and the first
        worker's statistics of batch norms, which each worker has of its own."""
        ema = self.stepper.ema
        with ema.applied() if ema is not None else contextlib.nullcontext():
            self.workers.broadcast(self.model.buffers())
            yield

    def _keep_best(self, metrics: dict[str, float]) -> None:
        best = self.progress["best"]
        decisive = "mask_AP" if "mask_AP" in metrics else "AP"
        if best is None or metrics[decisive] > best.get(decisive, -1.0):
            self.progress["best"] = {"iteration": self.iteration, **metrics}
            self._save_model(BEST_MODEL, metrics)

    def _save_model(self, name: str, metrics: dict[str, float] | None) -> None:
        self.folder.save_model(name, self.model, summary(self, metrics))

    def _finish(self, metrics: dict[str, float] | None) -> dict[str, Any]:
        result = summary(self, metrics)
        with self._trained():
            if self.workers.leads:
                self._save_model(FINAL_MODEL, metrics)
                self.folder.write_summary(result)
        self._say(f"model: {self.output_dir / FINAL_MODEL}")
        return self.workers.of_first(result)

    def _finished(self) -> dict[str, Any] | None:
        """The summary of a run that needs nothing more."""
        return None if self.iteration < self.solver.iterations else self.folder.summary_of(self.iteration)

    # ---- checkpoints ----

    def _save_checkpoint(self) -> None:
        if not self.workers.leads:
            return
        checkpoint = Checkpoint(
            iteration=self.iteration,
            model=dict(self.model.state_dict()),
            optimizer=self.optimizer.state_dict(),
            random=random_state(),
            recipe=self.recipe.model_dump(mode="json"),
            config=self.config.to_dict(),
            progress=self.progress,
            step=self.stepper.state_dict(),
        )
        self.folder.save_checkpoint(checkpoint, self.recipe.keep_checkpoints)
        self._saved = self.iteration

    def _restore(self, checkpoint: Checkpoint) -> None:
        changed = differences(checkpoint.recipe, self.recipe.model_dump(mode="json"))
        changed = [line for line in changed if not line.startswith(_HARMLESS)]
        if changed:
            self._say(f"the recipe changed since the checkpoint: {'; '.join(changed)}")
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        # Values of the recipe win over those stored with the optimiser.
        for group, fresh in zip(
            self.optimizer.param_groups,
            build_optimizer(self.model, self.solver).param_groups,
            strict=True,
        ):
            group.update({key: value for key, value in fresh.items() if key != "params"})
        remark = self.stepper.load_state_dict(checkpoint.step)
        if remark:
            self._say(remark)
        restore_random_state(checkpoint.random)
        self.iteration = checkpoint.iteration
        self.progress = checkpoint.progress
        if self.iteration < self.solver.iterations:
            self._say(f"resuming at iteration {self.iteration}")

    # ---- messages ----

    def _open_log(self) -> contextlib.AbstractContextManager[TrainingLog | None]:
        if not self.workers.leads:
            return contextlib.nullcontext()
        as_scaled = self.recipe.model_copy(update={"solver": self.solver})
        return TrainingLog.of_recipe(as_scaled, self.output_dir, self.iteration, self.console)

    def _note(
        self, log: TrainingLog | None, batch: Batch, result: StepResult, times: dict[str, float]
    ) -> None:
        """Enters an iteration, and what was odd about it, into the logs."""
        if log is None:
            return
        extra = {**{name: round(value, 4) for name, value in times.items()}, **peak_memory(self.device)}
        with self.folder.logging():
            log.iteration(batch.iteration, result.losses, result.rate, extra=extra)
            log.training_picture(batch, self.config)
        if result.overflow_scale is not None:
            self._message(
                log,
                f"iteration {batch.iteration}: a gradient overflowed in fp16, the step is skipped; "
                f"the loss scale is {result.overflow_scale:g} now",
            )

    def _report_problems(self, log: TrainingLog | None, batch: Batch) -> None:
        """Names images that could not be read, each one once."""
        for problems in self.workers.gather_objects(batch.problems):
            for problem in problems:
                if problem.image_id not in self._unreadable:
                    self._unreadable.add(problem.image_id)
                    self._message(log, f"skipped in training: {problem}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _message(self, log: TrainingLog | None, text: str) -> None:
        if log is not None:
            log.message(text)
