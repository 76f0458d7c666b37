# SPDX-License-Identifier: Apache-2.0
"""COCO-format datasets: reading, checking, augmenting and batching."""

from instseg.data.check import check_dataset
from instseg.data.coco import CocoDataset
from instseg.data.loader import Batch, batch_plan, training_batches
from instseg.data.records import Annotation, ImageRecord, Problem
from instseg.data.transforms import Augmentation

__all__ = [
    "Annotation",
    "Augmentation",
    "Batch",
    "CocoDataset",
    "ImageRecord",
    "Problem",
    "batch_plan",
    "check_dataset",
    "training_batches",
]
