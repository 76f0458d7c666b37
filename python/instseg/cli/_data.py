# SPDX-License-Identifier: Apache-2.0
"""``instseg data``: check, and what the modules beside this one add."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from instseg.cli import _data_convert, _data_stats
from instseg.cli._common import check_file, check_folder, count, examples, progress_bar, to_json

EXAMPLES = examples(
    "instseg data check annotations/instances_train.json images/train/",
    "instseg data check annotations/instances_train.json images/train/ --json",
)

app = typer.Typer(
    help="Look after data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=examples(
        "instseg data check annotations/instances_train.json images/train/",
        "instseg data stats annotations/instances_train.json images/train/",
        "instseg data plot annotations/instances_train.json images/train/ --output plots/",
        "instseg data convert lvis lvis_v1_val.json lvis_val.json",
    ),
)


@app.callback()
def _data() -> None:
    pass


@app.command("check", epilog=EXAMPLES)
def check(
    annotations: Annotated[str, typer.Argument(metavar="JSON", help="COCO instances file.")],
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="Folder that holds the images.")],
    masks: Annotated[
        bool | None,
        typer.Option(
            "--masks/--no-masks", help="Whether every annotation needs a mask; default: when any has one."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> int:
    """List every problem of a COCO data set; exit code 1 when there is any."""
    from instseg.data import check_dataset

    check_file(annotations, "annotation file")
    check_folder(images, "image folder")
    with progress_bar("images") as bar:
        task = bar.add_task("", total=None)
        problems = check_dataset(
            annotations,
            images,
            masks=masks,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(to_json([problem_row(problem) for problem in problems]))
    else:
        for problem in problems:
            typer.echo(str(problem))
        typer.echo(f"{annotations}: {count(len(problems), 'problem')}")
    return 1 if problems else 0


app.command("stats", epilog=_data_stats.STATS_EXAMPLES)(_data_stats.stats)
app.command("plot", epilog=_data_stats.PLOT_EXAMPLES)(_data_stats.plot)
app.add_typer(_data_convert.app, name="convert")


def problem_row(problem: Any) -> dict[str, Any]:
    """A problem as a JSON object."""
    from dataclasses import asdict

    return asdict(problem)
