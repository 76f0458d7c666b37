# SPDX-License-Identifier: Apache-2.0
"""``instseg eval``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from instseg.cli._common import (
    check_device,
    check_file,
    check_folder,
    check_output_file,
    count,
    examples,
    print_error,
    print_warning,
    progress_bar,
    write_json,
)

EXAMPLES = examples(
    "instseg eval model.safetensors --annotations val.json --images val/",
    "instseg eval model.safetensors --annotations val.json --images val/ --json ap.json",
    "instseg eval model.safetensors --annotations val.json --images val/ --detections detections.json",
)

SHOWN_PROBLEMS = 20

# (key, line of the table) of the twelve COCO numbers, in pycocotools' order.
ROWS = (
    ("AP", "AP    IoU 0.50:0.95"),
    ("AP50", "AP50  IoU 0.50"),
    ("AP75", "AP75  IoU 0.75"),
    ("APs", "APs   small objects"),
    ("APm", "APm   medium objects"),
    ("APl", "APl   large objects"),
    ("AR1", "AR    1 detection an image"),
    ("AR10", "AR    10 detections an image"),
    ("AR100", "AR    100 detections an image"),
    ("ARs", "ARs   small objects"),
    ("ARm", "ARm   medium objects"),
    ("ARl", "ARl   large objects"),
)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file.")],
    annotations: Annotated[
        str, typer.Option("--annotations", metavar="JSON", help="COCO instances file of the images.")
    ] = ...,  # type: ignore[assignment]
    images: Annotated[
        str, typer.Option("--images", metavar="DIR", help="Folder that holds the images.")
    ] = ...,  # type: ignore[assignment]
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the COCO numbers here.")
    ] = None,
    detections_file: Annotated[
        str | None,
        typer.Option("--detections", metavar="FILE", help="Write all detections as COCO results here."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16 (CUDA only).")] = "fp32",
) -> int:
    """Evaluate a model on a COCO data set: box AP, and mask AP of models with masks, by pycocotools."""
    import instseg
    from instseg.data import CocoDataset
    from instseg.evaluation import MASK_PREFIX, predicts_masks
    from instseg.evaluation import evaluate as run_evaluation

    check_device(device, precision)
    check_file(model, "model file")
    check_file(annotations, "annotation file")
    check_folder(images, "image folder")
    check_output_file(json_file, "--json")
    check_output_file(detections_file, "--detections")
    predictor = instseg.Predictor(model, device=device, precision=precision)
    for warning in predictor.warnings:
        print_warning(warning)
    wants_masks = predicts_masks(predictor.config)
    data = CocoDataset(annotations, images, masks=wants_masks)
    if wants_masks and not data.has_masks:
        print_warning(f"'{annotations}' has no usable masks; only boxes are evaluated")
        data = CocoDataset(annotations, images)
    with progress_bar("images") as bar:
        task = bar.add_task("", total=len(data))
        result = run_evaluation(predictor, data, progress=lambda done, _: bar.update(task, completed=done))
    print_problems([*data.problems, *result["problems"]], annotations)
    numbers = coco_numbers(result)
    typer.echo(format_numbers(numbers))
    if f"{MASK_PREFIX}AP" in result:
        of_masks = coco_numbers(result, MASK_PREFIX)
        typer.echo(f"\nmasks\n{format_numbers(of_masks)}")
        numbers |= {MASK_PREFIX + key: value for key, value in of_masks.items()}
    if result["max_detections"] != 100:
        print_warning(
            f"AP counts up to {result['max_detections']} detections an image, COCO's own limit is 100"
        )
    if json_file is not None:
        write_json(json_file, numbers)
    if detections_file is not None:
        write_json(detections_file, result["detections"])
    return 1 if data.problems or result["problems"] else 0


def print_problems(problems: Sequence[object], annotations: str) -> None:
    """A line for each of the first problems of a data set, and one that counts the rest."""
    for problem in problems[:SHOWN_PROBLEMS]:
        print_error(str(problem))
    rest = len(problems) - SHOWN_PROBLEMS
    if rest > 0:
        print_error(f"and {count(rest, 'more problem')} in '{annotations}'; instseg data check lists all")


def coco_numbers(result: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The twelve COCO numbers of an evaluation, in pycocotools' order: of boxes, or those with ``prefix``."""
    return {key: float(result[prefix + key]) for key, _ in ROWS}


def format_numbers(numbers: dict[str, float]) -> str:
    """The twelve numbers as a table; a dash where the data set has no such object."""
    lines = []
    for key, text in ROWS:
        value = numbers[key]
        lines.append(f"{text:<32}{f'{value:.4f}' if value >= 0 else '-':>8}")
    return "\n".join(lines)
