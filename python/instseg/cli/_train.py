# SPDX-License-Identifier: Apache-2.0
"""``instseg train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instseg.cli._common import UsageError, examples

EXAMPLES = examples(
    "instseg train nuclei_efficientnet_lite0 --output runs/nuclei",
    "instseg train my_recipe.yaml solver.iterations=2000 --output runs/mine",
    "instseg train my_recipe.yaml --output runs/mine --no-resume",
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
    from instseg.recipe import load_recipe
    from instseg.training import Trainer

    for item in overrides or []:
        if "=" not in item:
            raise UsageError(f"'{item}' is not of the form key=value")
    try:
        settings = load_recipe(recipe, list(overrides or []))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    if Path(output).exists() and not Path(output).is_dir():
        raise OSError(f"--output '{output}' is a file, not a folder")
    Trainer(settings, output, resume=resume).run()
