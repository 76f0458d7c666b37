# SPDX-License-Identifier: Apache-2.0
"""A COCO JSON file and its image folder as an indexable dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from instseg.data.cache import Cache, load_index
from instseg.data.index import ImageTable
from instseg.data.records import Annotation, ImageRecord, Problem


class CocoDataset:
    """Images, boxes and masks of a COCO JSON file.

    Labels are 0, 1, ... in ascending order of the category ids. Records that cannot be used are left out and
    listed in ``problems``; ``check_dataset`` additionally looks at the image files.

    Args:
        annotations: the JSON file (docs/training.md, "Data").
        images: folder that ``file_name`` of each image is relative to.
        filter_empty: leave out images without an object to train on.
        masks: read the segmentations too; annotations without a usable one are no training targets then.
        semantic: targets also hold a map of the classes' masks.
        cache: folder that keeps the parsed file; True: the user's (``$XDG_CACHE_HOME/instseg`` or
            ``~/.cache/instseg``), for files from 1 MiB on; False: none.

    Raises:
        OSError: the JSON file cannot be read, or ``images`` is no folder.
        ValueError: the file is not a COCO document.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        filter_empty: bool = False,
        masks: bool = False,
        semantic: bool = False,
        cache: Cache = True,
    ) -> None:
        self.annotations_path = Path(annotations)
        self.image_dir = Path(images)
        if not self.annotations_path.is_file():
            raise FileNotFoundError(f"[CocoDataset] annotation file '{self.annotations_path}' does not exist")
        if not self.image_dir.is_dir():
            raise FileNotFoundError(f"[CocoDataset] image folder '{self.image_dir}' does not exist")
        self.masks = masks
        self.semantic = semantic
        self._index = load_index(self.annotations_path, masks or semantic, cache)
        self.problems: list[Problem] = self._index.problems
        self.category_ids: list[int] = sorted(self._index.categories)
        self.class_names: list[str] = [self._index.categories[i] for i in self.category_ids]
        self._label_of = {category: label for label, category in enumerate(self.category_ids)}
        arrays = self._index.arrays
        trains = ~arrays["crowd"] & (arrays["has_mask"] | (not masks))
        before = np.concatenate([[0], np.cumsum(trains)])
        objects = before[arrays["first"][1:]] - before[arrays["first"][:-1]]
        kept = np.flatnonzero(objects > 0) if filter_empty else np.arange(len(objects))
        self.images: Sequence[ImageRecord] = ImageTable(self._index, kept)
        self._num_objects = int(objects[kept].sum())

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return (
            f"CocoDataset('{self.annotations_path}': {len(self.images)} images, {self.num_objects} objects, "
            f"{len(self.class_names)} classes, {len(self.problems)} problems)"
        )

    @property
    def num_objects(self) -> int:
        """Training targets of the listed images; crowds are none."""
        return self._num_objects

    @property
    def has_masks(self) -> bool:
        """Whether masks were read and any object has one."""
        arrays = self._index.arrays
        return bool((arrays["has_mask"] & ~arrays["crowd"]).any())

    def _trains(self, annotation: Annotation) -> bool:
        return not annotation.crowd and (annotation.has_mask or not self.masks)

    def annotations(self, image_id: int) -> list[Annotation]:
        """Usable annotations of an image, crowds included, in file order."""
        position = self._index.position(image_id)
        return [] if position is None else self._index.annotations(position)

    def path(self, i: int) -> Path:
        """Image file of entry ``i``."""
        return self.image_dir / self.images[i].file_name

    def read(self, i: int) -> npt.NDArray[np.uint8]:
        """Pixels of entry ``i``, RGB uint8 [H, W, 3].

        Raises OSError or ValueError when the file cannot be decoded or has another size than the JSON says.
        """
        from instseg import read_image

        record = self.images[i]
        image = np.asarray(read_image(str(self.path(i))))
        if image.shape[:2] != (record.height, record.width):
            raise ValueError(
                f"[CocoDataset] '{self.path(i)}' is {image.shape[1]} x {image.shape[0]}, "
                f"the annotations say {record.width} x {record.height}"
            )
        return image

    def targets(self, i: int) -> dict[str, Any]:
        """Targets of entry ``i`` without crowds: boxes [G, 4] float32 xyxy in pixels, labels [G] int64.

        With ``masks`` also masks (MaskTargets, G of them), with ``semantic`` also semantic [H, W] uint8 or
        int64: label + 1 of the last mask in the file that covers the pixel, crowds included, 0 for none.
        """
        from instseg import MaskTargets, ops

        record = self.images[i]
        size = record.height, record.width
        every = self.annotations(record.id)
        found = [a for a in every if self._trains(a)]
        boxes = torch.tensor([a.box for a in found], dtype=torch.float32).reshape(-1, 4)
        targets: dict[str, Any] = {"boxes": boxes, "labels": self._labels(found)}
        if self.masks:
            targets["masks"] = MaskTargets.from_coco(_segmentations(found), size)
        if self.semantic:
            masked = [a for a in every if a.segmentation is not None]
            masks = MaskTargets.from_coco(_segmentations(masked), size)
            targets["semantic"] = ops.class_map(masks, self._labels(masked))
        return targets

    def _labels(self, annotations: list[Annotation]) -> torch.Tensor:
        return torch.tensor([self._label_of[a.category_id] for a in annotations], dtype=torch.int64)

    def ground_truth(self, image_ids: set[int] | None = None, *, masks: bool | None = None) -> dict[str, Any]:
        """A clean COCO document of the listed images (or of ``image_ids`` among them), crowds included.

        masks: with the segmentations as they are in the file, and without the annotations that have no sound
        one; False: every box. Default: whether the dataset reads masks.
        """
        with_masks = self.masks if masks is None else masks
        listed = [image for image in self.images if image_ids is None or image.id in image_ids]
        annotations = [
            {
                "id": a.id,
                "image_id": a.image_id,
                "category_id": a.category_id,
                "bbox": list(a.bbox),
                "area": a.area,
                "iscrowd": int(a.crowd),
                **({"segmentation": a.segmentation.to_coco()} if with_masks and a.segmentation else {}),
            }
            for image in listed
            for a in self.annotations(image.id)
            if a.segmentation is not None or not with_masks
        ]
        names = zip(self.category_ids, self.class_names, strict=True)
        return {
            "images": [
                {"id": m.id, "file_name": m.file_name, "width": m.width, "height": m.height} for m in listed
            ],
            "annotations": annotations,
            "categories": [{"id": category, "name": name} for category, name in names],
        }


def _segmentations(annotations: list[Annotation]) -> list[Any]:
    return [a.segmentation.to_targets() for a in annotations if a.segmentation is not None]
