# SPDX-License-Identifier: Apache-2.0
"""Names of Caffe2/Detectron backbones (MSRA, FAIR) and of detectron2's ResNets."""

from __future__ import annotations

import re

from instseg.importers.names import NameTable, d2_resnet

BACKBONE = NameTable(d2_resnet(""))

# In this order, after "_" has become ".".
_RULES = (
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"bn\.s$", "norm.weight"),
    (r"bn\.bias$", "norm.bias"),
    (r"bn\.rm$", "norm.running_mean"),
    (r"bn\.running\.mean$", "norm.running_mean"),
    (r"bn\.riv$", "norm.running_var"),
    (r"bn\.running\.var$", "norm.running_var"),
    (r"bn\.gamma$", "norm.weight"),
    (r"bn\.beta$", "norm.bias"),
    (r"gn\.s$", "norm.weight"),
    (r"gn\.bias$", "norm.bias"),
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
)


def canonical(name: str) -> str:
    """The detectron2 name of a Caffe2 one: ``res2_0_branch2a_w`` is ``res2.0.conv1.weight``."""
    name = re.sub(r"^pred_([bw])$", r"linear_\1", name).replace("_", ".")
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
