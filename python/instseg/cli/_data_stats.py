# SPDX-License-Identifier: Apache-2.0
"""``instseg data stats`` and ``instseg data plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from instseg.cli._common import UsageError, check_file, check_folder, count, examples, print_warning, to_json

STATS_EXAMPLES = examples(
    "instseg data stats annotations/instances_train.json",
    "instseg data stats annotations/instances_train.json images/train/ --json",
)
PLOT_EXAMPLES = examples(
    "instseg data plot annotations/instances_train.json images/train/ --output plots/",
    "instseg data plot annotations/instances_train.json images/train/ --output plots/ --count 30 --seed 1",
    "instseg data plot annotations/instances_train.json images/train/ --output plots/ --images 9,25",
)

# (key, line of the table)
_ROWS = (
    ("image_width", "image width"),
    ("image_height", "image height"),
    ("objects_per_image", "objects per image"),
    ("box_width", "box width"),
    ("box_height", "box height"),
    ("box_size", "sqrt(width * height)"),
    ("aspect_ratio", "width / height"),
)
_COLUMNS = ("min", "p5", "median", "mean", "p95", "max")
SHEET = "samples.png"


def stats(
    annotations: Annotated[str, typer.Argument(metavar="JSON", help="COCO instances file.")],
    images: Annotated[
        str | None,
        typer.Argument(metavar="DIR", help="Folder of the images; missing ones are counted."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Count images, objects and classes, measure sizes, and say what they suggest for a recipe."""
    from instseg.data import dataset_stats

    check_file(annotations, "annotation file")
    if images is not None:
        check_folder(images, "image folder")
    found = dataset_stats(annotations, images)
    typer.echo(to_json(found) if as_json else stats_text(found))
    return 1 if found["missing_files"] else 0


def stats_text(found: dict[str, Any]) -> str:
    """The numbers of dataset_stats for people."""
    areas = found["areas"]
    lines = [
        f"{count(found['images'], 'image')} ({found['empty_images']} without objects), "
        f"{count(found['objects'], 'object')} ({found['masks']} with masks), "
        f"{count(found['crowds'], 'crowd')}",
        f"{areas['small']} small, {areas['medium']} medium, {areas['large']} large objects "
        f"(32 and 96 px squared)",
    ]
    if found["missing_files"]:
        lines.append(f"{count(found['missing_files'], 'image file')} missing")
    if found["problems"]:
        lines.append(f"{count(found['problems'], 'problem')}; instseg data check lists all")
    lines += ["", f"{'':<22}" + "".join(f"{name:>10}" for name in _COLUMNS)]
    for key, text in _ROWS:
        row = found[key]
        if row is not None:
            lines.append(f"{text:<22}" + "".join(f"{row[name]:>10.6g}" for name in _COLUMNS))
    width = max([5, *(len(row["name"]) for row in found["classes"])])
    lines += ["", f"{'id':>6}  {'class':<{width}}{'objects':>10}{'images':>10}"]
    lines += [
        f"{row['id']:>6}  {row['name']:<{width}}{row['objects']:>10}{row['images']:>10}"
        for row in found["classes"]
    ]
    advice = found["advice"]
    if advice["settings"]:
        lines += ["", "a starting point for a recipe:", *(f"  {text}" for text in advice["settings"])]
    lines += [f"note: {text}" for text in advice["notes"]]
    return "\n".join(lines)


def plot(
    annotations: Annotated[str, typer.Argument(metavar="JSON", help="COCO instances file.")],
    images: Annotated[str, typer.Argument(metavar="DIR", help="Folder that holds the images.")],
    output: Annotated[
        str, typer.Option("--output", metavar="OUT", help="Folder for the pictures, made when missing.")
    ] = ...,  # type: ignore[assignment]
    number: Annotated[int, typer.Option("--count", min=1, help="Images on the sheet.")] = 16,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of images.")] = 0,
    ids: Annotated[
        str | None, typer.Option("--images", metavar="IDS", help="These images, e.g. 9,25, in place of any.")
    ] = None,
) -> None:
    """Draw images with their annotations side by side, and bar charts of sizes and classes."""
    import numpy as np

    from instseg import write_image
    from instseg.data import CocoDataset, contact_sheet, dataset_charts

    check_file(annotations, "annotation file")
    check_folder(images, "image folder")
    if Path(output).exists() and not Path(output).is_dir():
        raise OSError(f"--output '{output}' is a file, not a folder")
    data = CocoDataset(annotations, images, masks=True)
    if not len(data):
        raise ValueError(f"'{annotations}' has no images")
    if ids is None:
        order = np.random.default_rng(seed).permutation(len(data))
        entries = sorted(order[:number].tolist())
    else:
        entries = _entries(ids, {image.id: i for i, image in enumerate(data.images)}, annotations)
    Path(output).mkdir(parents=True, exist_ok=True)
    write_image(Path(output) / SHEET, contact_sheet(data, entries))
    charts = dataset_charts(data)
    for name, chart in charts.items():
        write_image(Path(output) / f"{name}.png", chart)
    typer.echo(f"{output}: {', '.join([SHEET, *(f'{name}.png' for name in charts)])}")
    problems = [problem for problem in data.problems if problem.kind != "mask_missing"]
    if problems:
        print_warning(
            f"'{annotations}' has {count(len(problems), 'problem')}, not drawn; instseg data check lists all"
        )


def _entries(text: str, known: dict[int, int], annotations: str) -> list[int]:
    try:
        ids = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--images '{text}' is not a list of image ids like 9,25") from None
    if not ids:
        raise UsageError("--images is empty; name image ids like 9,25")
    unknown = [image_id for image_id in ids if image_id not in known]
    if unknown:
        raise ValueError(f"--images: no image {unknown[0]} in '{annotations}'")
    return [known[image_id] for image_id in ids]
