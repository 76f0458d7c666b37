# SPDX-License-Identifier: Apache-2.0
"""A COCO JSON file and its image folder as an indexable dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from instseg.data.records import Annotation, ImageRecord, Problem, index_document, read_document


class CocoDataset:
    """Images and boxes of a COCO JSON file.

    Labels are 0, 1, ... in ascending order of the category ids. Records that cannot be used are left out and
    listed in ``problems``; ``check_dataset`` additionally looks at the image files.

    Args:
        annotations: the JSON file (docs/training.md, "Data").
        images: folder that ``file_name`` of each image is relative to.
        filter_empty: leave out images without a non-crowd object, as for training.

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
    ) -> None:
        self.annotations_path = Path(annotations)
        self.image_dir = Path(images)
        if not self.annotations_path.is_file():
            raise FileNotFoundError(f"[CocoDataset] annotation file '{self.annotations_path}' does not exist")
        if not self.image_dir.is_dir():
            raise FileNotFoundError(f"[CocoDataset] image folder '{self.image_dir}' does not exist")
        index = index_document(read_document(self.annotations_path))
        self.problems: list[Problem] = index.problems
        self.category_ids: list[int] = sorted(index.categories)
        self.class_names: list[str] = [index.categories[i] for i in self.category_ids]
        self._label_of = {category: label for label, category in enumerate(self.category_ids)}
        self._annotations = index.annotations
        self.images: list[ImageRecord] = [
            image
            for image in index.images
            if not filter_empty or any(not a.crowd for a in index.annotations.get(image.id, ()))
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return (
            f"CocoDataset('{self.annotations_path}': {len(self.images)} images, {self.num_objects} objects, "
            f"{len(self.class_names)} classes, {len(self.problems)} problems)"
        )

    @property
    def num_objects(self) -> int:
        """Usable annotations of the listed images, crowds not counted."""
        return sum(not a.crowd for image in self.images for a in self.annotations(image.id))

    def annotations(self, image_id: int) -> list[Annotation]:
        """Usable annotations of an image, crowds included, in file order."""
        return self._annotations.get(image_id, [])

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

    def targets(self, i: int) -> dict[str, torch.Tensor]:
        """Targets of entry ``i`` without crowds: boxes [G, 4] float32 xyxy in pixels, labels [G] int64."""
        found = [a for a in self.annotations(self.images[i].id) if not a.crowd]
        boxes = torch.tensor([a.box for a in found], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([self._label_of[a.category_id] for a in found], dtype=torch.int64)
        return {"boxes": boxes, "labels": labels}

    def ground_truth(self, image_ids: set[int] | None = None) -> dict[str, Any]:
        """A clean COCO document of the listed images (or of ``image_ids`` among them), crowds included."""
        listed = [image for image in self.images if image_ids is None or image.id in image_ids]
        annotations = [
            {
                "id": a.id,
                "image_id": a.image_id,
                "category_id": a.category_id,
                "bbox": list(a.bbox),
                "area": a.area,
                "iscrowd": int(a.crowd),
            }
            for image in listed
            for a in self.annotations(image.id)
        ]
        names = zip(self.category_ids, self.class_names, strict=True)
        return {
            "images": [
                {"id": m.id, "file_name": m.file_name, "width": m.width, "height": m.height} for m in listed
            ],
            "annotations": annotations,
            "categories": [{"id": category, "name": name} for category, name in names],
        }
