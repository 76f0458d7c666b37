# SPDX-License-Identifier: Apache-2.0
"""Start values from a model file whose classes may be others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from instseg.training.checkpoint import differences

if TYPE_CHECKING:
    from instseg import Model, ModelConfig

# Family -> layers with a row for each class -> rows before that of the first class.
CLASS_LAYERS: dict[str, dict[str, int]] = {
    "fcos": {"head.cls_logits": 0},
    "condinst": {"head.cls_logits": 0, "mask_branch.seg_logits": 0},
    "blendmask": {"head.cls_logits": 0, "basis_module.seg_logits": 1},  # row 0: no class
    "solo": {"head.cls_logits": 0},
}

# Counts the iterations of one training; another one starts anew.
_ITERATIONS = "iterations"

# Counters of norms that no computation reads.
_COUNTERS = ".num_batches_tracked"

# Parts of which half has to fit: with less, the file is one of another architecture.
_PARTS = ("backbone", "neck", "head")

# Fields of these parts that change no tensor.
_NO_SHAPE = ("backbone.freeze", "head.prior_prob")

_SHOWN = 6


@dataclass
class Transfer:
    """What became of each tensor of a model, by name."""

    taken: list[str] = field(default_factory=list)
    """Taken over as they are."""
    by_class: list[str] = field(default_factory=list)
    """Of layers that depend on the classes: rows of ``carried`` taken over, other rows fresh."""
    carried: list[str] = field(default_factory=list)
    """Classes that both know, by name."""
    fresh_rows: bool = False
    """Whether the model has classes that the file has not."""
    reshaped: list[str] = field(default_factory=list)
    """Of another shape in the file, freshly initialised."""
    missing: list[str] = field(default_factory=list)
    """Not in the file, freshly initialised."""
    unused: list[str] = field(default_factory=list)
    """In the file, without a place in the model."""
    classes: str = "same classes"
    """How the two lists of classes compare."""
    notes: list[str] = field(default_factory=list)
    """Whatever else should be known."""

    def line(self) -> str:
        """All of it in one line for people."""
        shared = [*self.taken, *self.by_class, *self.reshaped]
        own = [*shared, *self.missing]
        parts = [f"{len(self.taken)} of {len(own)} tensors taken over", self.classes, self._of_classes()]
        for title, names, every in (
            ("of other shape in the file, re-initialised", self.reshaped, own),
            ("not in the file, re-initialised", self.missing, own),
            ("of no use here", self.unused, [*shared, *self.unused]),
        ):
            parts.append(f"{title}: {_some(_modules(names, every))}" if names else "")
        return "; ".join(part for part in parts + self.notes if part)

    def _of_classes(self) -> str:
        layers = _some(_layers(self.by_class))
        if not layers:
            return ""
        if not self.carried:
            return f"re-initialised for the classes: {layers}"
        if not self.fresh_rows:
            return f"rows taken over by class name: {layers}"
        return f"re-initialised for the classes but for the rows of {_some(self.carried)}: {layers}"


def fine_tune(model: Model, path: str | os.PathLike[str]) -> Transfer:
    """Fills ``model`` with what fits of a model file, and says what became of each tensor.

    Layers with a row for each class take over the rows of classes that both know, by name; the other rows
    keep their fresh values. Nothing is changed unless half of the backbone, the neck and the head fit.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no model file, or one of another architecture, with what differs.
    """
    from instseg import _C

    content = _C.read_model_file(os.fspath(path))
    own = model.state_dict()
    transfer = Transfer(notes=[f"warning: {text}" for text in content.warnings])
    same = _compare_classes(content.config, model.config, transfer)
    layers = {} if same else CLASS_LAYERS[model.config.family]
    state: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        given = content.tensors.get(name)
        layer = name.rpartition(".")[0]
        if given is None:
            transfer.missing += [] if name.endswith(_COUNTERS) else [name]
        elif name == _ITERATIONS:
            transfer.notes.append(f"the counter '{name}' starts at 0")
        elif layer in layers and given.shape[1:] == tensor.shape[1:]:
            state[name] = _rows(given, tensor, layers[layer], content.config, model.config)
            transfer.by_class.append(name)
        elif given.shape != tensor.shape or given.is_floating_point() != tensor.is_floating_point():
            transfer.reshaped.append(name)
        else:
            state[name] = given
            transfer.taken.append(name)
    transfer.unused = [name for name in content.tensors if name not in own and not name.endswith(_COUNTERS)]
    _check_parts(transfer, own, content.config, model.config, str(path))
    model.load_state_dict(state, strict=False)
    return transfer


def _compare_classes(old: ModelConfig, new: ModelConfig, transfer: Transfer) -> bool:
    """Whether every label means the same in both; fills in what ``transfer`` says about classes."""
    if old.class_names == new.class_names and old.num_classes == new.num_classes:
        return True
    known = set(old.class_names)
    common = [name for name in new.class_names if name in known]
    if not old.class_names or not new.class_names:
        transfer.classes = f"{old.num_classes} -> {new.num_classes} classes, of unknown names"
    elif len(common) == old.num_classes == new.num_classes:
        transfer.classes = "same classes in another order"
    else:
        transfer.classes = f"{old.num_classes} -> {new.num_classes} classes, {len(common)} of them in both"
    transfer.carried = common
    transfer.fresh_rows = len(common) < new.num_classes
    return False


def _rows(
    given: torch.Tensor, fresh: torch.Tensor, first: int, old: ModelConfig, new: ModelConfig
) -> torch.Tensor:
    """``fresh`` with the rows of classes that both lists name, and with those before the first class."""
    labels = {name: label for label, name in enumerate(old.class_names)}
    pairs = [(labels[name], label) for label, name in enumerate(new.class_names) if name in labels]
    result = fresh.detach().clone()
    if not pairs or given.shape[0] != old.num_classes + first:
        return result
    rows = [(row, row) for row in range(first)] + [(a + first, b + first) for a, b in pairs]
    source, target = (torch.tensor(side, device=result.device) for side in zip(*rows, strict=True))
    result[target] = given.to(result)[source]
    return result


def _check_parts(
    transfer: Transfer, own: Iterable[str], old: ModelConfig, new: ModelConfig, path: str
) -> None:
    """ValueError unless half of the tensors of each part fit."""
    fit = {*transfer.taken, *transfer.by_class}
    for part in _PARTS:
        names = [name for name in own if name.startswith(f"{part}.")]
        count = sum(name in fit for name in names)
        if 2 * count < len(names):
            differing = _architecture(old.to_dict(), new.to_dict())
            what = f" ({_some(differing)})" if differing else ""
            raise ValueError(
                f"[load_weights] '{path}' holds a model of another architecture{what}: "
                f"{count} of {len(names)} tensors of the {part} fit; "
                "choose a file of the same architecture or change the recipe's model"
            )


def _architecture(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields of the two configurations that make the tensors differ: "neck.channels: 256 -> 128"."""
    sections = ["family", *_PARTS]
    if old["family"] == new["family"] and old["family"] in new:
        sections.append(old["family"])
    found = differences({key: old[key] for key in sections}, {key: new[key] for key in sections})
    return [line for line in found if not line.startswith(_NO_SHAPE)]


def _layers(names: Iterable[str]) -> list[str]:
    """Layers of parameters: "head.cls_logits" for its weight and its bias."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _modules(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """The outermost modules that hold nothing of ``every`` but ``names``: "controller"."""
    names = list(names)
    inside = Counter(prefix for name in names for prefix in _prefixes(name))
    total = Counter(prefix for name in every for prefix in _prefixes(name))
    whole = (next(p for p in _prefixes(name) if inside[p] == total[p]) for name in names)
    return list(dict.fromkeys(whole))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
