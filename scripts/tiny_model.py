# SPDX-License-Identifier: Apache-2.0
"""Writes a small random model file and a small image: `python scripts/tiny_model.py MODEL IMAGE`."""

from __future__ import annotations

import sys

import numpy as np
import torch

import instseg

torch.manual_seed(0)
model = instseg.Model(
    {
        "family": "condinst",
        "num_classes": 2,
        "class_names": ["a", "b"],
        "input": {"short_side": 96, "long_side": 128},
        "backbone": {"name": "resnet18", "norm": "bn_eval", "stride_in_1x1": False},
        "neck": {"channels": 32},
        "head": {"cls_convs": 1, "box_convs": 1, "prior_prob": 0.5},
        "condinst": {"branch_channels": 16, "branch_convs": 1},
    }
)
model.save(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
instseg.write_image(sys.argv[2], torch.from_numpy(noise))
