# SPDX-License-Identifier: Apache-2.0
"""``instseg train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instseg.cli._common import QuietExit, UsageError, examples

if TYPE_CHECKING:
    from instseg.training.workers import Workers

EXAMPLES = examples(
    "instseg train nuclei_efficientnet_lite0 --output runs/nuclei",
    "instseg train my_recipe.yaml solver.iterations=2000 --output runs/mine",
    "instseg train nuclei_condinst_lite0 data.train=train.json data.val=val.json:images/ --output runs/mine",
    "instseg train my_recipe.yaml --output runs/mine --no-resume",
    "instseg train condinst_MS_R_50_1x solver.batch_size=4 --output runs/one_gpu",
    "instseg train condinst_MS_R_50_1x solver.micro_batch=2 solver.amp=bf16 --output runs/small_gpu",
    "torchrun --nproc-per-node 8 -m instseg.cli train condinst_MS_R_50_1x --output runs/eight_gpus",
)


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields of the recipe to change.", show_default=False),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder for checkpoints, logs and the final model.")
    ] = ...,  # type: ignore[assignment]
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue an interrupted run found in DIR.")
    ] = True,
) -> None:
    """Train a model as a recipe says."""
    from instseg.training.workers import PeerFailed, Workers

    workers = Workers.join()
    try:
        with workers:
            _train(recipe, list(overrides or []), output, resume, workers)
    except PeerFailed:
        raise QuietExit(1) from None
    except KeyboardInterrupt:
        if workers.leads:
            raise
        raise QuietExit(130) from None


def _train(recipe: str, overrides: list[str], output: str, resume: bool, workers: Workers) -> None:
    from instseg.recipe import load_recipe
    from instseg.training import Trainer

    for item in overrides:
        if "=" not in item:
            raise UsageError(f"'{item}' is not of the form key=value")
    try:
        settings = load_recipe(recipe, overrides)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    if Path(output).exists() and not Path(output).is_dir():
        raise OSError(f"--output '{output}' is a file, not a folder")
    Trainer(settings, output, resume=resume, workers=workers).run()
