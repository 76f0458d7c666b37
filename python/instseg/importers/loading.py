# SPDX-License-Identifier: Apache-2.0
"""Copies the tensors of a checkpoint into a model, name by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from instseg.importers.containers import Checkpoint
from instseg.importers.report import Report
from instseg.importers.tensors import StoredTensor

# Preprocessing, counters and anchors: no weights of the network.
_IGNORED = re.compile(
    r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|weight_order)$"
    r"|^mask_head\.(_iter|sizes_of_interest)$|anchor_generator\."
)
# Our names of layers that only serve training, for models built without them.
_AUXILIARY = re.compile(r"(basis_module|mask_branch)\.seg_(head|logits)\.")
# What a file may lack.
_COUNTERS = ("num_batches_tracked", "iterations")


def match_names(
    checkpoint: Checkpoint,
    ours: Callable[[str], str | None],
    targets: Mapping[str, torch.Tensor],
    report: Report,
) -> dict[str, str]:
    """Our name -> name in the checkpoint, for every entry that has a place in ``targets``; fills
    ``report``."""
    sources: dict[str, str] = {}
    report.ignored += checkpoint.skipped
    for name in checkpoint.state:
        own = ours(name)
        if own is None or own not in targets:
            ignored = _IGNORED.search(name) or (own is not None and _AUXILIARY.match(own))
            (report.ignored if ignored else report.unexpected).append(name)
        elif own in sources:
            raise ValueError(f"has both '{sources[own]}' and '{name}' for {own}")
        else:
            sources[own] = name
    return sources


def copy_tensors(
    checkpoint: Checkpoint,
    sources: Mapping[str, str],
    targets: Mapping[str, torch.Tensor],
    report: Report,
    *,
    strict: bool,
) -> None:
    """
    Writes ``checkpoint.state[sources[name]]`` into ``targets[name]``, cast to its dtype.

    With ``strict`` nothing is written unless all shapes agree and no parameter is missing or unexpected; then
    ValueError says what does not fit. Otherwise what fits is written and the rest is in ``report``.
    """
    report.missing += [name for name in targets if name not in sources and not name.endswith(_COUNTERS)]
    misshapen = {
        own: name
        for own, name in sources.items()
        if not _fits(checkpoint.state[name], targets[own]) and not own.endswith(_COUNTERS[0])
    }
    if strict:
        _raise_if_unfit(checkpoint, misshapen, targets, report)
    casts: dict[torch.dtype, int] = {}
    with torch.no_grad():
        for own, name in sources.items():
            stored, target = checkpoint.state[name], targets[own]
            if own in misshapen:
                report.missing.append(own)
                report.unexpected.append(name)
                continue
            target.copy_(stored.load().reshape(target.shape))
            report.matched[name] = own
            if target.is_floating_point() and stored.dtype != target.dtype:
                casts[stored.dtype] = casts.get(stored.dtype, 0) + 1
    for dtype, count in casts.items():
        report.notes.append(f"{count} tensors were cast from {str(dtype).removeprefix('torch.')} to float32")


def _fits(stored: StoredTensor, target: torch.Tensor) -> bool:
    # mmdetection's scales are 0-dimensional.
    scalar = target.numel() == 1 and stored.shape in ((), (1,))
    return scalar or stored.shape == tuple(target.shape)


def _raise_if_unfit(
    checkpoint: Checkpoint, misshapen: Mapping[str, str], targets: Mapping[str, torch.Tensor], report: Report
) -> None:
    problems = [problem for problem in (report.problem(),) if problem]
    for own, name in list(misshapen.items())[:4]:
        shape, wanted = checkpoint.state[name].shape, tuple(targets[own].shape)
        problems.append(f"'{name}' has shape {shape}, the model's {own} {wanted}")
    if problems:
        raise ValueError("does not fit the model: " + "; ".join(problems) + " (strict=False takes what fits)")
