# SPDX-License-Identifier: Apache-2.0
"""Opens the data of a recipe with what the model's losses and its evaluation need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instseg.data import CocoDataset, check_same_classes
from instseg.evaluation import predicts_masks
from instseg.recipe import Recipe, SplitRecipe

if TYPE_CHECKING:
    from instseg import ModelConfig


def mask_needs(config: ModelConfig) -> tuple[bool, bool]:
    """Whether the losses of a model need masks, and whether they need a semantic map."""
    if config.family == "blendmask":
        return True, config.blendmask.semantic
    if config.family == "condinst":
        return config.condinst.supervision != "boxes", False
    return config.family == "solo", False


def training_data(recipe: Recipe) -> CocoDataset:
    """The data to train on.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not set or no COCO document, or it holds nothing to train on.
    """
    settings = recipe.model_settings()
    masks, semantic = mask_needs(settings)
    split = recipe.data.train
    data = _open(recipe, "data.train", recipe.data.filter_empty, masks, semantic)
    if masks and not data.has_masks:
        other = "train with condinst.supervision=boxes or " if settings.family == "condinst" else ""
        raise ValueError(
            f"[Trainer] data.train: '{split.annotations}' has no usable masks; {other}add segmentations"
        )
    if not len(data):
        raise ValueError(f"[Trainer] data.train: no image with objects in '{split.annotations}'")
    return data


def validation_data(recipe: Recipe, train: CocoDataset | None = None) -> CocoDataset | None:
    """The data to evaluate on, with masks where the model predicts them and the file has any.

    Raises ValueError when its classes are not those of ``train``; ids may differ, as names are compared.
    """
    split = recipe.data.val
    if not split.annotations:
        return None
    masks = predicts_masks(recipe.model_settings())
    data = _open(recipe, "data.val", False, masks, False)
    if masks and not data.has_masks:
        data = _open(recipe, "data.val", False, False, False)
    if train is not None:
        where = f"data.val: '{split.annotations}'"
        who = f"data.train: '{train.annotations_path}'"
        check_same_classes(train.class_names, data.class_names, who=who, where=where)
    return data


def _open(recipe: Recipe, field: str, filter_empty: bool, masks: bool, semantic: bool) -> CocoDataset:
    split: SplitRecipe = recipe.data.train if field == "data.train" else recipe.data.val
    if not split.annotations or not split.images:
        missing = "annotations" if not split.annotations else "images"
        raise ValueError(f"[Trainer] {field}.{missing} is not set")
    try:
        return CocoDataset(
            split.annotations,
            split.images,
            filter_empty=filter_empty,
            masks=masks,
            semantic=semantic,
            cache=recipe.data.cache,
        )
    except (OSError, ValueError) as error:
        raise type(error)(f"{error} ({field} of the recipe)") from None
