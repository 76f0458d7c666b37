# SPDX-License-Identifier: Apache-2.0
"""``instseg eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instseg.cli._common import (
    UsageError,
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
from instseg.cli._evaluate_tables import format_classes, format_numbers, rows_of

if TYPE_CHECKING:
    from instseg.data import CocoDataset
    from instseg.evaluation import CocoResult

EXAMPLES = examples(
    "instseg eval model.safetensors --annotations val.json --images val/",
    "instseg eval model.safetensors --annotations val.json --images val/ --json ap.json --classes",
    "instseg eval model.safetensors --annotations val.json --images val/ --workers 4 --pictures mistakes/",
    "instseg eval --gt val.json --dt detections.json",
)

SHOWN_PROBLEMS = 20

Model = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="A model file.", show_default=False)]
Annotations = Annotated[
    str | None, typer.Option("--annotations", metavar="JSON", help="COCO instances file of the images.")
]
Images = Annotated[str | None, typer.Option("--images", metavar="DIR", help="Folder that holds the images.")]
Gt = Annotated[
    str | None, typer.Option("--gt", metavar="JSON", help="Instead of MODEL: COCO instances file ...")
]
Dt = Annotated[
    str | None, typer.Option("--dt", metavar="JSON", help="... and COCO results of any tool for it.")
]
Kind = Annotated[
    str, typer.Option("--kind", help="With --dt: box, mask, or auto: what its first entry holds.")
]
MaxDetections = Annotated[
    int | None,
    typer.Option(
        "--max-detections",
        metavar="N",
        help="Detections an image that count (default: the model's, at least 100).",
    ),
]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the COCO numbers here.")]
DetectionsFile = Annotated[
    str | None,
    typer.Option("--detections", metavar="FILE", help="Write the detections as COCO results here."),
]
Classes = Annotated[bool, typer.Option("--classes", help="Print the numbers of each class, too.")]
Pictures = Annotated[
    str | None,
    typer.Option(
        "--pictures", metavar="DIR", help="Write precision-recall curves and galleries of mistakes here."
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", metavar="N", help="Processes that evaluate a share of the images each.")
]
Evaluator = Annotated[
    str, typer.Option("--evaluator", help="instseg, or pycocotools for the reference; equal numbers.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16 (CUDA only).")]


def evaluate(
    model: Model = None,
    annotations: Annotations = None,
    images: Images = None,
    gt: Gt = None,
    dt: Dt = None,
    kind: Kind = "auto",
    max_detections: MaxDetections = None,
    json_file: Json = None,
    detections_file: DetectionsFile = None,
    classes: Classes = False,
    pictures: Pictures = None,
    workers: Workers = 1,
    evaluator: Evaluator = "instseg",
    device: Device = "cpu",
    precision: Precision = "fp32",
) -> int:
    """Evaluate a model on a COCO data set, or COCO results of any tool: box AP and mask AP."""
    _check_choices(kind, max_detections, workers, evaluator)
    check_output_file(json_file, "--json")
    check_output_file(detections_file, "--detections")
    _check_pictures(pictures)
    if model is None and (gt is not None or dt is not None):
        refused = {
            "--annotations": annotations,
            "--detections": detections_file,
            "--workers": workers if workers > 1 else None,
        }
        _refuse(refused, "goes with MODEL, not with --gt and --dt")
        if images is not None:
            check_folder(images, "image folder")
        truth, rows, kinds = _read_files(_required(gt, "--gt"), _required(dt, "--dt"), kind)
        results = {each: _compare(truth, rows, each, max_detections, evaluator) for each in kinds}
        _report(results, json_file, classes)
        _draw(pictures, results, dict.fromkeys(results, truth), rows, images)
        return 0
    if model is None:
        raise UsageError("eval needs MODEL with --annotations and --images, or --gt and --dt")
    _refuse({"--gt": gt, "--dt": dt}, "goes without MODEL; with one give --annotations and --images")
    if kind != "auto":
        raise UsageError("--kind goes with --gt and --dt; a model's boxes and masks are both evaluated")
    annotations, images = _required(annotations, "--annotations"), _required(images, "--images")
    data, result = _run(model, annotations, images, device, precision, max_detections, workers, evaluator)
    _report(result["results"], json_file, classes)
    if result["max_detections"] != 100:
        print_warning(
            f"AP counts up to {result['max_detections']} detections an image, COCO's own limit is 100"
        )
    if detections_file is not None:
        write_json(detections_file, result["detections"])
    if pictures is not None:
        read = {image.id for image in data.images} - {p.image_id for p in result["problems"]}
        truths = {each: data.ground_truth(read, masks=each == "mask") for each in result["results"]}
        _draw(pictures, result["results"], truths, result["detections"], images)
    return 1 if data.problems or result["problems"] else 0


def _run(
    model: str,
    annotations: str,
    images: str,
    device: str,
    precision: str,
    max_detections: int | None,
    workers: int,
    evaluator: str,
) -> tuple[CocoDataset, dict[str, Any]]:
    """The data set and what evaluate() says about the model on it."""
    import instseg
    from instseg.data import CocoDataset
    from instseg.evaluation import evaluate as run_evaluation
    from instseg.evaluation import predicts_masks

    check_device(device, precision)
    check_file(model, "model file")
    check_file(annotations, "annotation file")
    check_folder(images, "image folder")
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
        result = run_evaluation(
            predictor,
            data,
            max_detections=max_detections,
            progress=lambda done, _: bar.update(task, completed=done),
            workers=workers,
            evaluator=evaluator,
        )
    print_problems([*data.problems, *result["problems"]], annotations)
    return data, result


def _read_files(gt: str, dt: str, kind: str) -> tuple[Mapping[str, Any], list[Any], list[str]]:
    """Ground truth, detections, and what can be compared of them."""
    from instseg.data.records import has_segmentations
    from instseg.evaluation._truth import FIELDS, read_detections, read_document

    check_file(gt, "annotation file")
    check_file(dt, "detections file")
    truth, rows = read_document(gt, "mask", "eval"), read_detections(dt, "eval")
    if kind != "auto":
        return truth, rows, [kind]
    first = rows[0] if rows and isinstance(rows[0], dict) else {}
    kinds = [each for each, field in FIELDS.items() if field in first] or ["box"]
    if len(kinds) == 2 and not has_segmentations(dict(truth)):
        print_warning(f"'{gt}' has no masks; only boxes are evaluated")
        kinds = ["box"]
    return truth, rows, kinds


def _compare(
    truth: Mapping[str, Any], rows: list[Any], kind: str, max_detections: int | None, evaluator: str
) -> CocoResult:
    from instseg.evaluation import compare_detections

    limit = 100 if max_detections is None else max_detections
    return compare_detections(truth, rows, kind=kind, max_detections=limit, evaluator=evaluator)


def _report(results: dict[str, CocoResult], json_file: str | None, classes: bool) -> None:
    """Prints the tables and writes the numbers."""
    from instseg.evaluation import MASK_PREFIX

    document: dict[str, Any] = {}
    tables = []
    for kind, result in results.items():
        numbers = rows_of(result.numbers)
        title = "masks\n" if kind == "mask" else ""
        tables.append(title + format_numbers(numbers))
        if classes:
            tables.append(format_classes(result.per_class()))
        prefix = MASK_PREFIX if kind == "mask" else ""
        document |= {prefix + key: value for key, value in numbers.items()}
    if classes:
        document["classes"] = {kind: result.per_class() for kind, result in results.items()}
    typer.echo("\n\n".join(tables))
    if json_file is not None:
        write_json(json_file, document)


def _draw(
    pictures: str | None,
    results: Mapping[str, CocoResult],
    truths: Mapping[str, Any],
    rows: list[Any],
    images: str | None,
) -> None:
    if pictures is None:
        return
    from instseg.evaluation.pictures import write_pictures

    written = [
        path
        for kind, result in results.items()
        for path in write_pictures(pictures, result, truths[kind], rows, images)
    ]
    typer.echo("\n" + "\n".join(str(path) for path in written))


def _required(value: str | None, option: str) -> str:
    if value is None:
        raise UsageError(f"option {option} is missing")
    return value


def _refuse(options: Mapping[str, object], reason: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {reason}")


def _check_choices(kind: str, max_detections: int | None, workers: int, evaluator: str) -> None:
    if kind not in ("box", "mask", "auto"):
        raise UsageError(f"--kind must be box, mask or auto, got '{kind}'")
    if evaluator not in ("instseg", "pycocotools"):
        raise UsageError(f"--evaluator must be instseg or pycocotools, got '{evaluator}'")
    if max_detections is not None and max_detections < 1:
        raise UsageError(f"--max-detections must be positive, got {max_detections}")
    if workers < 1:
        raise UsageError(f"--workers must be positive, got {workers}")


def _check_pictures(folder: str | None) -> None:
    from pathlib import Path

    if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
        raise OSError(f"--pictures '{folder}' is a file, not a folder")


def print_problems(problems: Sequence[object], annotations: str) -> None:
    """A line for each of the first problems of a data set, and one that counts the rest."""
    for problem in problems[:SHOWN_PROBLEMS]:
        print_error(str(problem))
    rest = len(problems) - SHOWN_PROBLEMS
    if rest > 0:
        print_error(f"and {count(rest, 'more problem')} in '{annotations}'; instseg data check lists all")
