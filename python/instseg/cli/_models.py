# SPDX-License-Identifier: Apache-2.0
"""``instseg models``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from instseg.cli._common import examples, to_json

EXAMPLES = examples("instseg models", "instseg models --json", "instseg models --shipped")


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Only the paths of the model files that come with the package.")
    ] = False,
) -> None:
    """List the presets with their published AP and official weights, and the models of the package."""
    import instseg

    if shipped:
        print_shipped(instseg.shipped_models(), as_json)
        return
    rows = [preset_row(preset) for preset in instseg.presets()]
    if as_json:
        typer.echo(to_json(rows))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    typer.echo(f"{'preset':<{width}}  box AP  mask AP  description")
    for row in rows:
        box, mask = ("-" if row[key] is None else f"{row[key]:.1f}" for key in ("box_ap", "mask_ap"))
        typer.echo(f"{row['name']:<{width}}  {box:>6}  {mask:>7}  {row['description']}")
        if row["weights_url"] or row["weights_file"]:
            where = " ".join(part for part in (row["weights_file"], row["weights_url"]) if part)
            typer.echo(f"{'':<{width}}  {'':6}  {'':7}  weights: {where}")
    for name, path in instseg.shipped_models().items():
        typer.echo(f"\ncomes with the package: {name}, {path}")
    typer.echo(
        "\nAP: published, COCO val2017. Convert official weights: instseg convert FILE OUT --preset NAME"
    )


def print_shipped(models: Mapping[str, Path], as_json: bool) -> None:
    """One path a line, as JSON with names. FileNotFoundError when there is none."""
    if not models:
        from instseg import shipped_model

        shipped_model()  # says where it should be
    if as_json:
        typer.echo(to_json([{"name": name, "path": str(path)} for name, path in models.items()]))
        return
    for path in models.values():
        typer.echo(str(path))


def preset_row(preset: Any) -> dict[str, Any]:
    """A preset as a JSON object; absent facts are null."""
    return {
        "name": preset.name,
        "description": preset.description,
        "box_ap": preset.box_ap if preset.box_ap > 0 else None,
        "mask_ap": preset.mask_ap if preset.mask_ap > 0 else None,
        "weights_file": preset.weights_file or None,
        "weights_url": preset.weights_url or None,
    }
