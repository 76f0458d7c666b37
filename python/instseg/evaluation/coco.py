# SPDX-License-Identifier: Apache-2.0
"""Box and mask AP and AR of a predictor, or of detections made elsewhere (docs/evaluation.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from instseg.data import CocoDataset
from instseg.evaluation._reference import run_pycocotools
from instseg.evaluation._truth import (
    Detection,
    GroundTruth,
    Source,
    check_rows,
    read_detections,
    rows_by_image,
)
from instseg.evaluation._workers import Peers, Predictions, predict, predict_in_processes, predict_with
from instseg.evaluation.evaluator import CocoEvaluator, check_settings
from instseg.evaluation.results import COCO_MAX_DETECTIONS, CocoResult, prefix_of

if TYPE_CHECKING:
    from instseg import ModelConfig, Predictor

EVALUATORS = ("instseg", "pycocotools")


def predicts_masks(config: ModelConfig) -> bool:
    """Whether models of this configuration give their detections masks."""
    return config.family != "fcos"


def evaluate(
    predictor: Predictor,
    dataset: CocoDataset,
    *,
    max_detections: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | Peers = 1,
    evaluator: str = "instseg",
) -> dict[str, Any]:
    """Runs a predictor over a dataset and compares its boxes, and masks, with the annotations.

    Args:
        predictor: a Predictor; its classes are matched to the dataset's by name.
        dataset: ground truth; crowds are ignored regions. Masks are compared when the model predicts masks
            and the dataset was opened with ``masks=True`` and has some.
        max_detections: detections an image that count, the best ones first. Default: the model's
            ``post.max_detections``, at least 100 (the COCO protocol).
        progress: called with (images done, images in all).
        workers: processes that evaluate a share of the images each, with a share of the CPU threads. They are
            spawned: a script needs ``if __name__ == "__main__":``. Or the processes that make this call,
            all of them, such as instseg.training.Workers under torchrun: each gets the whole result.
        evaluator: "instseg", or "pycocotools" for the reference; the numbers are equal.

    Returns:
        The numbers of evaluate_detections(), floats, those of masks as "mask_AP", "mask_AP50", ..., and
        besides: "results" (kind -> CocoResult: arrays and curves), "per_class" (kind -> its rows),
        "max_detections" (int), "images" (int, those evaluated), "detections" (their COCO results) and
        "problems" (list of Problem: images that could not be read and do not count).

    Raises ValueError when the model knows none of the dataset's classes, or no image can be read, and
    RuntimeError when a worker process ends before its work is done.
    """
    check_evaluator(evaluator, "evaluate")
    together = hasattr(workers, "gather_objects")
    if not together and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(f"[evaluate] workers must be a positive number of processes, got {workers!r}")
    config = predictor.config
    limit = max(COCO_MAX_DETECTIONS, config.post.max_detections) if max_detections is None else max_detections
    check_settings(("box",), limit, "evaluate")
    categories = _categories_of_labels(config.class_names, config.num_classes, dataset)
    own = limit if evaluator == "instseg" else None
    if not isinstance(workers, int):
        done = predict_with(predictor, dataset, categories, own, workers, progress)
    elif min(workers, len(dataset)) > 1:
        share = min(workers, len(dataset))
        done = predict_in_processes(predictor, dataset, categories, own, share, progress)
    else:
        done = predict(predictor, dataset, categories, own, progress)
    if not done.image_ids:
        reason = f"; {done.problems[0].message}" if done.problems else ""
        raise ValueError(f"[evaluate] no image of '{dataset.annotations_path}' could be read{reason}")
    results = _results(done, dataset, limit)
    numbers = {prefix_of(kind) + key: n for kind, r in results.items() for key, n in r.numbers.items()}
    return {
        **numbers,
        "results": results,
        "per_class": {kind: result.per_class() for kind, result in results.items()},
        "max_detections": limit,
        "images": len(done.image_ids),
        "detections": done.rows,
        "problems": done.problems,
    }


def _results(done: Predictions, dataset: CocoDataset, limit: int) -> dict[str, CocoResult]:
    if done.evaluator is not None:
        return done.evaluator.results(only_added=True)
    results = {}
    for kind in done.kinds:
        document = dataset.ground_truth(set(done.image_ids), masks=kind == "mask")
        results[kind] = run_pycocotools(GroundTruth(document, kind, "evaluate"), done.rows, limit)
    return results


def compare_detections(
    ground_truth: Source,
    detections: str | os.PathLike[str] | Sequence[Detection],
    *,
    kind: str = "box",
    max_detections: int = COCO_MAX_DETECTIONS,
    evaluator: str = "instseg",
) -> CocoResult:
    """Numbers, classes and curves of detections made elsewhere; arguments are those of
    evaluate_detections()."""
    return _compare(ground_truth, detections, kind, max_detections, evaluator, "compare_detections")


def evaluate_detections(
    ground_truth: Source,
    detections: str | os.PathLike[str] | Sequence[Detection],
    *,
    kind: str = "box",
    max_detections: int = COCO_MAX_DETECTIONS,
    evaluator: str = "instseg",
) -> dict[str, float]:
    """COCO numbers of boxes or masks found elsewhere.

    Args:
        ground_truth: a COCO document, the path of one, or a CocoDataset.
        detections: COCO results or the path of a JSON file with them; those of categories that the ground
            truth has not do not count.
        kind: "box", or "mask"; mask detections are sorted into sizes by their own area, boxes are not read.
        max_detections: N, detections an image that count for AP, APs, ARs, ...
        evaluator: "instseg", or "pycocotools" for the reference; the numbers are equal.

    Returns:
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl and, unless N is 100, AR<N>: 0..1, or
        -1 where the dataset has no such object.

    Raises ValueError when a detection lacks a field or belongs to an image that is not in the ground truth,
    its score is no number or its mask of another size, or an annotation has no mask to compare with.
    """
    run = _compare(ground_truth, detections, kind, max_detections, evaluator, "evaluate_detections")
    return run.numbers


def check_evaluator(evaluator: str, function: str) -> None:
    """ValueError unless there is such an evaluator."""
    if evaluator not in EVALUATORS:
        raise ValueError(f"[{function}] evaluator must be {' or '.join(EVALUATORS)}, got {evaluator!r}")


def _compare(
    ground_truth: Source, detections: Any, kind: str, limit: int, evaluator: str, function: str
) -> CocoResult:
    check_settings((kind,), limit, function)
    check_evaluator(evaluator, function)
    rows = read_detections(detections, function)
    check_rows(rows, (kind,), function)
    truth = GroundTruth(ground_truth, kind, function)
    by_image = rows_by_image(rows, truth)
    if evaluator == "pycocotools":
        return run_pycocotools(truth, rows, limit)
    run = CocoEvaluator.of(truth, limit)
    for image in truth.image_ids:
        run.add_checked(image, by_image.get(image, []))
    return run.results()[kind]


def _categories_of_labels(names: list[str], count: int, dataset: CocoDataset) -> list[int | None]:
    """Dataset category of each label of the model, None for classes the dataset has not."""
    if not names:
        if count != len(dataset.category_ids):
            raise ValueError(
                f"[evaluate] the model has {count} classes without names, "
                f"'{dataset.annotations_path}' has {len(dataset.category_ids)}"
            )
        return list(dataset.category_ids)
    known = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    categories = [known.get(name) for name in names]
    if all(category is None for category in categories):
        raise ValueError(
            f"[evaluate] none of the model's classes ({', '.join(names[:5])}) is in "
            f"'{dataset.annotations_path}' ({', '.join(dataset.class_names[:5])})"
        )
    return categories
