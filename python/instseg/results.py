# SPDX-License-Identifier: Apache-2.0
"""Detections of one image and what they can be turned into."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from . import _C
from .image import Array, ImageLike, to_array, to_tensor, write_image


@dataclass(eq=False, repr=False)
class Instances:
    """Detections by descending score, in continuous pixel coordinates of the original image."""

    boxes: torch.Tensor  # [N, 4] float32: x1, y1, x2, y2; of SOLO models those of the masks
    scores: torch.Tensor  # [N] float32, 0..1
    labels: torch.Tensor  # [N] int64, index into class_names
    image_size: tuple[int, int]  # height, width of the original image
    class_names: list[str] = field(default_factory=list)  # empty: unknown
    category_ids: list[int] = field(default_factory=list)  # dataset id of each label; empty: the label itself
    masks: _C.Masks | None = None  # small until asked for (docs/masks.md); None: the model predicts none

    @classmethod
    def from_core(cls, core: _C.Instances, config: _C.ModelConfig) -> Instances:
        """Adds the class names of `config` to what the C++ model returns."""
        return cls(
            core.boxes,
            core.scores,
            core.labels,
            core.image_size,
            config.class_names,
            config.category_ids,
            core.masks,
        )

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def __repr__(self) -> str:
        height, width = self.image_size
        counts: dict[str, int] = {}
        for name in self.names:
            counts[name] = counts.get(name, 0) + 1
        what = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        return f"<Instances {what} in {width}x{height}>"

    @property
    def names(self) -> list[str]:
        """Class name of each detection; the label as text where names are unknown."""
        return [self._name(label) for label in self.labels.tolist()]

    def above(self, threshold: float) -> Instances:
        """Those with score >= `threshold`."""
        keep = (self.scores >= threshold).nonzero().squeeze(1)
        masks = None if self.masks is None else self.masks.select(keep.to(self.masks.probabilities.device))
        return replace(
            self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], masks=masks
        )

    def to(self, device: str | torch.device) -> Instances:
        """The same detections on another device."""
        return replace(
            self,
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            masks=None if self.masks is None else self.masks.to(torch.device(device)),
        )

    def bitmaps(self) -> torch.Tensor:
        """Masks at the size of the image, bool [N, H, W], on the device of `masks`.

        Raises ValueError when the model predicts no masks, as the methods below do.
        """
        return self._masks("bitmaps").bitmaps().view(torch.bool)

    def rle(self) -> list[dict[str, Any]]:
        """Masks as pycocotools takes them: {"size": [height, width], "counts": text}; makes no bitmap."""
        return [_coco_rle(rle) for rle in self._masks("rle").rle()]

    def polygons(self) -> list[list[torch.Tensor]]:
        """Of each mask the outer outlines, [V, 2] float32 x, y along pixel edges; holes are left out."""
        return self._masks("polygons").polygons()

    def area(self) -> torch.Tensor:
        """Pixels of each mask, [N] int64 on the CPU."""
        return self._masks("area").area()

    def crops(self) -> list[tuple[int, int, torch.Tensor]]:
        """Of each mask x, y of its tight box and what is in it, bool [h, w] on the CPU; empty: [0, 0]."""
        return [(x, y, bitmap.view(torch.bool)) for x, y, bitmap in self._masks("crops").crops()]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox [x, y, width, height] and score of each detection.

        Models with masks add "segmentation", the mask as rle() gives it.
        """
        entries: list[dict[str, Any]] = [
            {
                "image_id": image_id,
                "category_id": self._category(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for label, score, (x1, y1, x2, y2) in self._rows()
        ]
        if self.masks is not None:
            for entry, rle in zip(entries, self.rle(), strict=True):
                entry["segmentation"] = rle
        return entries

    def to_dict(self, file: str | None = None, *, masks: bool = True) -> dict[str, Any]:
        """One entry of "images" in the detections document (docs/detections.md); `file` is its file name.

        Models with masks add "mask" and "area" to each detection, unless `masks` is false.
        """
        height, width = self.image_size
        entry: dict[str, Any] = {} if file is None else {"file": file}
        entry.update(width=width, height=height)
        entry["detections"] = [
            {
                "class": self._name(label),
                "label": label,
                "category_id": self._category(label),
                "score": score,
                "box": box,
            }
            for label, score, box in self._rows()
        ]
        if masks and self.masks is not None:
            for detection, rle in zip(entry["detections"], self.masks.rle(), strict=True):
                detection.update(mask=_coco_rle(rle), area=rle.area())
        return entry

    def to_json(self, file: str | None = None, indent: int | None = None, *, masks: bool = True) -> str:
        """to_dict as text."""
        return json.dumps(self.to_dict(file, masks=masks), indent=indent)

    def plot(
        self,
        image: ImageLike,
        score_threshold: float = 0.3,
        *,
        labels: bool = True,
        line_width: int = 0,
        masks: bool = True,
        boxes: bool = True,
    ) -> Array:
        """A copy of `image` with masks, boxes and labels drawn, uint8 [H, W, 3], as the executable draws it.

        `image` is the one the detections belong to. `line_width` is in pixels; 0: from the image size.
        Colours are those of the labels; where masks are drawn, each instance has its own.
        """
        pixels = to_tensor(image)
        if tuple(pixels.shape[:2]) != tuple(self.image_size):
            raise ValueError(
                f"[Instances.plot] the detections belong to a {self.image_size[1]}x{self.image_size[0]} "
                f"image, got one of {pixels.shape[1]}x{pixels.shape[0]}"
            )
        core = _C.Instances(self.boxes, self.scores, self.labels, self.image_size, self.masks)
        drawn = _C.draw_instances(
            pixels, core, self.class_names, score_threshold, labels, line_width, masks, boxes
        )
        return to_array(drawn)

    def save_plot(
        self,
        path: str | os.PathLike[str],
        image: ImageLike,
        score_threshold: float = 0.3,
        *,
        labels: bool = True,
        line_width: int = 0,
        masks: bool = True,
        boxes: bool = True,
    ) -> None:
        """Writes plot() as PNG or JPEG, by the extension of `path`."""
        drawn = self.plot(
            image, score_threshold, labels=labels, line_width=line_width, masks=masks, boxes=boxes
        )
        write_image(path, drawn)

    def _masks(self, method: str) -> _C.Masks:
        if self.masks is None:
            raise ValueError(f"[Instances.{method}] the model predicts no masks")
        return self.masks

    def _name(self, label: int) -> str:
        return self.class_names[label] if self.class_names else str(label)

    def _category(self, label: int) -> int:
        return self.category_ids[label] if self.category_ids else label

    def _rows(self) -> Iterable[tuple[int, float, list[float]]]:
        return zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)


def _coco_rle(rle: _C.Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.compressed()}


def detections_document(
    model: str, images: Iterable[dict[str, Any]], errors: Iterable[dict[str, str]] = ()
) -> dict[str, Any]:
    """The document that `instseg predict --json` and `instseg-infer --json` write.

    `model` is the file name of the model, `images` the results of Instances.to_dict(file), `errors` one
    {"file": ..., "error": ...} for each input that failed.
    """
    return {"model": model, "images": list(images), "errors": list(errors)}
