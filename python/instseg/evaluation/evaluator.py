# SPDX-License-Identifier: Apache-2.0
"""The COCO evaluator of the C++ core, fed image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from instseg import _C
from instseg.evaluation._truth import FIELDS, GroundTruth, Source, check_rows
from instseg.evaluation.results import CocoResult, limits_of, prefix_of

_NAME = "CocoEvaluator"


class CocoEvaluator:
    """COCO numbers of boxes and masks, matched image by image; the same as pycocotools', bit for bit.

    Only a few bytes a detection are kept. Several processes, each with the same ground truth, add some of the
    images each; one of them merges the others' ``state()``. The order of images and parts does not matter.

    Args:
        ground_truth: a COCO document, the path of one, or a CocoDataset.
        kinds: what is compared, "box", "mask" or both.
        max_detections: N, detections of a class and image that count for AP, APs, ARs, ...

    Raises OSError when the file cannot be read, ValueError when it is no COCO document or an annotation lacks
    what is compared.
    """

    def __init__(
        self, ground_truth: Source, kinds: Sequence[str] = ("box", "mask"), max_detections: int = 100
    ) -> None:
        check_settings(kinds, max_detections, _NAME)
        self._start({kind: GroundTruth(ground_truth, kind, _NAME) for kind in kinds}, max_detections)

    @classmethod
    def of(cls, truth: GroundTruth, max_detections: int) -> CocoEvaluator:
        """An evaluator of one kind over ground truth that is read already."""
        evaluator = cls.__new__(cls)
        evaluator._start({truth.kind: truth}, max_detections)
        return evaluator

    def _start(self, truth: dict[str, GroundTruth], max_detections: int) -> None:
        self.kinds = tuple(truth)
        self.max_detections = max_detections
        self._truth = truth
        self._parts = {kind: self._empty(kind) for kind in self.kinds}
        self._added: set[int] = set()

    def _empty(self, kind: str) -> _C.CocoEvaluation:
        classes = len(self._truth[kind].category_ids)
        return _C.CocoEvaluation(kind, classes, limits_of(self.max_detections)[-1])

    @property
    def image_ids(self) -> list[Any]:
        """Images added or merged so far, ascending."""
        ids = self._truth[self.kinds[0]].image_ids
        return [ids[i] for i in sorted(self._added)]

    def add(self, image_id: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Matches the detections of one image, COCO results in any order.

        Rows of categories that the ground truth has not are left out. Raises ValueError when the image is
        not in the ground truth or was added before, and when a row is of another image, lacks a field, or
        holds a score that is no number or a mask of another size; the evaluator is then as before.
        """
        position = self._truth[self.kinds[0]].position.get(image_id)
        if position is None:
            raise ValueError(f"[{_NAME}.add] image {image_id} is not in the ground truth")
        if position in self._added:
            raise ValueError(f"[{_NAME}.add] image {image_id} was added before")
        check_rows(rows, self.kinds, f"{_NAME}.add")
        for i, row in enumerate(rows):
            if row["image_id"] != image_id:
                raise ValueError(
                    f"[{_NAME}.add] detection {i} is of image {row['image_id']}, not of {image_id}"
                )
        self.add_checked(image_id, rows)

    def add_checked(self, image_id: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """add() of rows whose fields are known to be sound, all of this image."""
        position = self._truth[self.kinds[0]].position[image_id]
        prepared = []
        for kind in self.kinds:
            truth = self._truth[kind]
            prepared.append((kind, truth.objects(image_id, bool(rows)), truth.detections(image_id, rows)))
        for kind, objects, found in prepared:
            self._parts[kind].add(position, objects, found)
        self._added.add(position)

    def state(self) -> dict[str, Any]:
        """What was added so far, picklable."""
        return {
            "max_detections": self.max_detections,
            "parts": {kind: part.state() for kind, part in self._parts.items()},
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Takes the images of another evaluator's ``state()``.

        Raises ValueError when it has an image that this one has too, or was made with other settings.
        """
        theirs = state["parts"]
        if set(theirs) != set(self.kinds):
            raise ValueError(
                f"[{_NAME}.merge] the other part compares {', '.join(theirs)}, not {', '.join(self.kinds)}"
            )
        if state["max_detections"] != self.max_detections:
            raise ValueError(
                f"[{_NAME}.merge] the other part counts {state['max_detections']} detections an image, "
                f"this one {self.max_detections}"
            )
        others = {kind: _C.CocoEvaluation.from_state(theirs[kind]) for kind in self.kinds}
        added = set(others[self.kinds[0]].image_ids())
        images = self._truth[self.kinds[0]].image_ids
        if any(i >= len(images) for i in added):
            raise ValueError(f"[{_NAME}.merge] the other part is of another ground truth")
        if added & self._added:
            raise ValueError(f"[{_NAME}.merge] image {images[min(added & self._added)]} is in both parts")
        for kind, part in self._parts.items():
            part.merge(others[kind])
        self._added |= added

    def results(self, *, only_added: bool = False) -> dict[str, CocoResult]:
        """Numbers and curves of each kind.

        only_added: over the added images; otherwise over all of the ground truth, where images that were not
        added have no detections.
        """
        return {kind: self._result(kind, only_added) for kind in self.kinds}

    def compute(self, *, only_added: bool = False) -> dict[str, float]:
        """COCO numbers under the names of evaluate(): those of masks begin with "mask_"."""
        return {
            prefix_of(kind) + name: value
            for kind, result in self.results(only_added=only_added).items()
            for name, value in result.numbers.items()
        }

    def _result(self, kind: str, only_added: bool) -> CocoResult:
        truth, part = self._truth[kind], self._parts[kind]
        missing = [] if only_added else sorted(set(range(len(truth.image_ids))) - self._added)
        if missing:
            complete = self._empty(kind)
            complete.merge(part)
            for i in missing:
                image = truth.image_ids[i]
                complete.add(i, truth.objects(image, False), truth.detections(image, []))
            part = complete
        curves = part.compute(limits_of(self.max_detections))
        return CocoResult(
            kind,
            curves.precision.numpy(),
            curves.recall.numpy(),
            curves.scores.numpy(),
            curves.objects.numpy(),
            truth.class_names,
            truth.category_ids,
            self.max_detections,
        )


def check_settings(kinds: Sequence[str], max_detections: int, function: str) -> None:
    """ValueError on kinds that do not exist, or a limit below 1."""
    if isinstance(kinds, str) or not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(f"[{function}] kinds must be a list of box and mask, got {kinds!r}")
    for kind in kinds:
        if kind not in FIELDS:
            raise ValueError(f"[{function}] kind must be box or mask, got {kind!r}")
    if isinstance(max_detections, bool) or not isinstance(max_detections, int) or max_detections < 1:
        raise ValueError(f"[{function}] max_detections must be positive, got {max_detections}")
