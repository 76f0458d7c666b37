# SPDX-License-Identifier: Apache-2.0
"""COCO-format datasets: reading, checking, measuring, drawing, converting, augmenting and batching."""

from instseg.data.check import check_dataset
from instseg.data.classes import check_same_classes
from instseg.data.coco import CocoDataset
from instseg.data.converters import convert_cityscapes, convert_lvis
from instseg.data.draw import contact_sheet, dataset_charts, draw_annotations
from instseg.data.loader import Batch, batch_plan, training_batches
from instseg.data.records import Annotation, ImageRecord, Problem
from instseg.data.stats import dataset_stats
from instseg.data.transforms import Augmentation, Crop

__all__ = [
    "Annotation",
    "Augmentation",
    "Batch",
    "CocoDataset",
    "Crop",
    "ImageRecord",
    "Problem",
    "batch_plan",
    "check_dataset",
    "check_same_classes",
    "contact_sheet",
    "convert_cityscapes",
    "convert_lvis",
    "dataset_charts",
    "dataset_stats",
    "draw_annotations",
    "training_batches",
]
