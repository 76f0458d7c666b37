# SPDX-License-Identifier: Apache-2.0
"""Looks through a dataset for everything that training or evaluation would have to skip."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from instseg.data.records import (
    Annotation,
    ImageRecord,
    Problem,
    has_segmentations,
    index_document,
    read_document,
)

_SHOWN = 8  # annotation ids a message names


def check_dataset(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    decode: bool = True,
    masks: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """Everything that is wrong with a COCO JSON file and its images; raises nothing.

    Args:
        decode: read every image completely; otherwise only its existence is checked.
        masks: whether every annotation needs a mask; None: when any has one, so that a file of boxes is
            sound.
        progress: called with (images done, images in all).

    Returns:
        The problems of the JSON file, then those of the images; empty when the dataset is sound.
    """
    try:
        document = read_document(annotations)
        index = index_document(document, has_segmentations(document) if masks is None else masks)
    except (OSError, ValueError) as error:
        return [Problem("unreadable_json", str(error))]
    problems = list(index.problems)
    for done, image in enumerate(index.images, 1):
        found = index.annotations.get(image.id, [])
        problem = _check_image(Path(images) / image.file_name, image, found, decode)
        if problem is not None:
            problems.append(problem)
        if progress is not None:
            progress(done, len(index.images))
    return problems


def _names(annotations: Sequence[Annotation]) -> str:
    """``, needed by annotations 12, 13, ... (37)``; empty without annotations."""
    if not annotations:
        return ""
    ids = ", ".join(str(a.id) for a in annotations[:_SHOWN])
    rest = f", ... ({len(annotations)})" if len(annotations) > _SHOWN else ""
    return f", needed by annotation{'' if len(annotations) == 1 else 's'} {ids}{rest}"


def _check_image(
    path: Path, image: ImageRecord, annotations: Sequence[Annotation], decode: bool
) -> Problem | None:
    try:
        if not path.is_file():
            message = f"image file '{path}' does not exist{_names(annotations)}"
            return Problem("image_missing", message, image.id)
        if not decode:
            return None
        from instseg import read_image

        height, width = read_image(str(path)).shape[:2]
    except (OSError, ValueError) as error:  # ValueError also covers names with a NUL character
        return Problem("image_unreadable", f"{error}{_names(annotations)}", image.id)
    if (width, height) != (image.width, image.height):
        message = (
            f"'{path}' is {width} x {height}, the annotations say {image.width} x {image.height} "
            f"(sizes count after EXIF rotation)"
        )
        return Problem("image_size", message, image.id)
    return None
