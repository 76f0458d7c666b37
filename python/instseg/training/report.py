# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself: when it starts, and in summary.json."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from instseg.training.optim import describe_parameters

if TYPE_CHECKING:
    from instseg.training.trainer import Trainer


def announcement(trainer: Trainer) -> list[str]:
    """Lines about data, model and schedule of a run that begins."""
    solver, data, stepper = trainer.solver, trainer.train_data, trainer.stepper
    world, parts = trainer.workers.world, stepper.parts
    split = (
        f" ({world} workers x {stepper.micro_batches} x {solver.batch_size // parts})" if parts > 1 else ""
    )
    options = [
        *([solver.amp] if solver.amp != "none" else []),
        *([f"moving average {solver.ema_decay:g}"] if solver.ema_decay is not None else []),
    ]
    lines = [
        f"{trainer.recipe.name}: {len(data)} images, {data.num_objects} objects, "
        f"{len(trainer.config.class_names)} classes; {describe_parameters(trainer.model, solver)}; "
        f"batch {solver.batch_size}{split}, {solver.iterations} iterations "
        f"({solver.iterations * solver.batch_size / len(data):.1f} epochs), "
        f"{', '.join([trainer.device.type if world > 1 else str(trainer.device), *options])}"
    ]
    if trainer.scaling:
        lines.append(trainer.scaling)
    for opened in (data, trainer.val_data):
        if opened is not None and opened.problems:
            lines.append(
                f"{opened.annotations_path}: {len(opened.problems)} problems, the first one: "
                f"{opened.problems[0]}; 'instseg data check' lists all"
            )
    return lines


def summary(trainer: Trainer, metrics: dict[str, float] | None) -> dict[str, Any]:
    """Content of summary.json."""
    import instseg

    schedule = ("base_lr", "iterations", "milestones", "warmup_iterations")
    return {
        "recipe": trainer.recipe.model_dump(mode="json"),
        "schedule": {name: getattr(trainer.solver, name) for name in schedule},
        "workers": trainer.workers.world,
        "micro_batches": trainer.stepper.micro_batches,
        "iteration": trainer.iteration,
        "metrics": metrics,
        "best": trainer.progress["best"],
        "training_seconds": round(trainer.progress["seconds"], 1),
        "training_images": len(trainer.train_data),
        "versions": {
            "instseg": str(getattr(instseg, "__version__", "unknown")),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
