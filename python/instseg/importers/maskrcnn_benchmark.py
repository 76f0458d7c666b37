# SPDX-License-Identifier: Apache-2.0
"""Names of FCOS checkpoints of the first implementation, which was based on maskrcnn-benchmark."""

from __future__ import annotations

from instseg.importers import adelaidet

# In this order: later rules see the result of earlier ones.
_REPLACEMENTS = (
    ("body", "bottom_up"),
    *((f".layer{k}", f".res{k + 1}") for k in range(1, 5)),
    ("downsample.0", "shortcut"),
    ("downsample.1", "shortcut.norm"),
    *((f"bn{k}", f"conv{k}.norm") for k in range(1, 4)),
    *((f"fpn_inner{k}", f"fpn_lateral{k + 1}") for k in range(2, 5)),
    *((f"fpn_layer{k}", f"fpn_output{k + 1}") for k in range(2, 5)),
    ("top_blocks", "top_block"),
    ("fpn.", ""),
    ("rpn", "proposal_generator"),
    ("head", "fcos_head"),
)

TABLE = adelaidet.table(0)


def canonical(name: str) -> str:
    """The AdelaiDet name of a maskrcnn-benchmark one."""
    for old, new in _REPLACEMENTS:
        name = name.replace(old, new)
    return adelaidet.canonical(name)
