# SPDX-License-Identifier: Apache-2.0
"""Deterministic weights derived purely from state-dict entry name and shape.

    fill(name, shape, tweaks=()) -> ndarray   (float32; int64 for counters / sizes_of_interest)

`tweaks` is the (usually empty or tiny) list stored as manifest["tweaks"]: [[regex, mul, add], ...];
for every regex that `re.search`es the name the filled array becomes value * mul + add (float32).
Needs numpy only.  Every entry has its own PCG64 stream seeded with crc32(name).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# (regex on the weight name, gain); weight ~ N(0, (gain * sqrt(2 / fan_in))**2); first match wins
GAINS = [
    # stems that see un-normalised (std == 1) pixels: detectron2 ResNet / DLA
    (r"stem\.conv1\.weight$|base_layer\.0\.weight$", 1.0 / 30),
    # DCN offset predictors
    (r"offset\.weight$", 0.3),
    # FPN
    (
        r"fpn_lateral|fpn_output|lateral_convs|fpn_convs|\.fpn\.(inner|layer)_blocks|extra_blocks\.p[67]"
        r"|top_block\.p[67]",
        0.7,
    ),
    # BiFPN node outputs (swish, averaging)
    (r"outputs_f\d[\d_]*\.weight$", 1.42),
    # dense heads
    (r"cls_logits\.weight$", 1.0),
    (r"(bbox_pred|bbox_reg)\.weight$", 0.5),
    (r"(ctrness|bbox_ctrness)\.weight$", 1.0),
    (r"top_layer\.weight$", 2.0),
    (r"controller\.weight$", 0.3),
    (r"(mask_branch|basis_module)\.tower\.\d+\.weight$", 0.7),
    # SOLO family
    (r"(solo_cate|cate_pred)\.weight$", 1.0),
    (r"dsolo_ins_list_[xy]\.\d+\.weight$", 1.5),
    (r"solo_ins_list\.\d+\.weight$", 2.0),
    (r"(solo_kernel|kernel_pred)\.weight$", 0.3),
]

# last norm of a residual branch
RESIDUAL_NORM = re.compile(r"(conv3\.norm|bn3|norm3|level\d.*\.bn2)\.weight$")
CLS_BIAS = re.compile(r"cls_logits\.bias$")
CATE_BIAS = re.compile(r"(solo_cate|cate_pred)\.bias$")
SOLOV2_MASK_GN = re.compile(r"conv_pred\.(0\.gn|1)\.bias$")
BOX_BIAS = re.compile(r"(bbox_pred|bbox_reg)\.bias$")
SOI = (64, 128, 256, 512)


def fill(name: str, shape: Sequence[int], tweaks: Sequence[Any] = ()) -> npt.NDArray[Any]:
    shape = tuple(int(s) for s in shape)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("utf-8"))))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "_iter":  # CondInst mask_head._iter
        return np.zeros(shape, np.float32)
    if leaf == "sizes_of_interest":  # CondInst mask_head.sizes_of_interest (a constant)
        soi = list(SOI[: shape[0] - 1])
        return np.asarray([*soi, soi[-1] * 2], np.int64)
    if leaf == "running_var":
        v = rng.uniform(0.8, 1.2, shape)
    elif leaf == "running_mean":
        v = rng.normal(0.0, 0.05, shape)
    elif leaf == "scale":
        v = rng.uniform(0.9, 1.1, shape)
    elif leaf.startswith("weights_f"):  # BiFPN fusion weights
        v = rng.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2:  # conv / linear / deformable conv weight
        gain = 1.0
        for pat, g in GAINS:
            if re.search(pat, name):
                gain = g
                break
        v = rng.standard_normal(shape) * (gain * np.sqrt(2.0 / np.prod(shape[1:])))
    elif leaf == "weight":  # norm weight
        v = rng.uniform(0.9, 1.1, shape)
        if RESIDUAL_NORM.search(name):
            v = v * 0.3
    elif CLS_BIAS.search(name):
        v = rng.normal(-7.0, 0.4, shape)
    elif CATE_BIAS.search(name):
        v = rng.normal(-5.9, 0.4, shape)
    elif SOLOV2_MASK_GN.search(name):
        v = rng.normal(-0.5, 0.05, shape)
    elif BOX_BIAS.search(name):
        v = rng.uniform(2.0, 5.0, shape)
    else:  # bias
        v = rng.normal(0.0, 0.05, shape)
    for pat, mul, add in tweaks:
        if re.search(pat, name):
            v = v * mul + add
    return v.astype(np.float32)
