# SPDX-License-Identifier: Apache-2.0
"""The published schedules for other batch sizes, and how a step's images are shared out."""

from __future__ import annotations

from instseg.recipe import SolverRecipe


def scaled(solver: SolverRecipe) -> tuple[SolverRecipe, str | None]:
    """``solver`` for its batch_size, and a line that says what changed, None where nothing had to.

    With s = batch_size / reference_batch the rate becomes base_lr * s; iterations, milestones and
    warmup_iterations are divided by s, so that as many images are seen.
    """
    reference, batch = solver.reference_batch, solver.batch_size
    if reference is None or reference == batch:
        return solver, None
    if not solver.auto_scale:
        return solver, (
            f"solver.batch_size is {batch}, the recipe is for {reference}: nothing is scaled "
            "(solver.auto_scale=false)"
        )

    def of(iterations: int) -> int:
        return max(1, (2 * iterations * reference + batch) // (2 * batch))  # rounded

    changes = {
        "base_lr": solver.base_lr * batch / reference,
        "iterations": of(solver.iterations),
        "milestones": sorted({of(milestone) for milestone in solver.milestones}),
        "warmup_iterations": of(solver.warmup_iterations) if solver.warmup_iterations else 0,
    }
    facts = [
        f"{name} {getattr(solver, name):g} -> {value:g}"
        if isinstance(value, float)
        else f"{name} {getattr(solver, name)} -> {value}"
        for name, value in changes.items()
    ]
    line = (
        f"solver.batch_size is {batch}, the recipe is for {reference}: {', '.join(facts)} "
        "(solver.auto_scale=false keeps them)"
    )
    return solver.model_copy(update=changes), line


def micro_batches(solver: SolverRecipe, world: int) -> int:
    """Forward passes of one of ``world`` workers in a step.

    Raises ValueError when the images of a step cannot be shared out evenly.
    """
    micro = solver.micro_batch
    if micro is None:
        if solver.batch_size % world:
            raise ValueError(
                f"[Trainer] solver.batch_size {solver.batch_size} cannot be shared by {world} workers; "
                f"make it a multiple, e.g. {-(-solver.batch_size // world) * world}"
            )
        return 1
    if solver.batch_size % (world * micro):
        raise ValueError(
            f"[Trainer] solver.batch_size {solver.batch_size} is no multiple of solver.micro_batch {micro} "
            f"times {world} workers"
        )
    return solver.batch_size // (world * micro)
