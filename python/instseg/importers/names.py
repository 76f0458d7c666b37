# SPDX-License-Identifier: Apache-2.0
"""Two-way translation between our parameter names and those of another code base."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PLACEHOLDER = re.compile(r"\{(?:(\d+)\*)?([a-z]+)([+-]\d+)?\}")
_WORDS = {
    "wb": "weight|bias",
    "leaf": "weight|bias|running_mean|running_var|num_batches_tracked",
}
Row = tuple[str, str]


class _Pattern:
    """A name with placeholders: ``{wb}``, ``{leaf}``, or an integer ``{i}``, ``{3*i+1}``, ``{k-3}``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._terms: list[tuple[str, int, int]] = []
        regex, end = "", 0
        for match in _PLACEHOLDER.finditer(text):
            factor, variable, offset = match.groups()
            self._terms.append((variable, int(factor or 1), int(offset or 0)))
            regex += re.escape(text[end : match.start()])
            regex += f"({_WORDS[variable]})" if variable in _WORDS else r"(0|[1-9]\d{0,5})"
            end = match.end()
        self._regex = re.compile(regex + re.escape(text[end:]))

    def match(self, name: str) -> dict[str, str | int] | None:
        """The variables that make this pattern equal to ``name``."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        values: dict[str, str | int] = {}
        for (variable, factor, offset), text in zip(self._terms, found.groups(), strict=True):
            value: str | int = text
            if variable not in _WORDS:
                value, rest = divmod(int(text) - offset, factor)
                if rest or value < 0:
                    return None
            if values.setdefault(variable, value) != value:
                return None
        return values

    def fill(self, values: dict[str, str | int]) -> str:
        """The name for these variables."""

        def substitute(match: re.Match[str]) -> str:
            factor, variable, offset = match.groups()
            value = values[variable]
            return value if isinstance(value, str) else str(int(factor or 1) * value + int(offset or 0))

        return _PLACEHOLDER.sub(substitute, self._text)


class NameTable:
    """Rows (ours, official); the first row that fits translates, in either direction."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = [(_Pattern(ours), _Pattern(official)) for ours, official in rows]

    def ours(self, official: str) -> str | None:
        """Our name of an official one, None when it has no counterpart."""
        for own, foreign in self._rows:
            values = foreign.match(official)
            if values is not None:
                return own.fill(values)
        return None

    def official(self, ours: str) -> str | None:
        """The official name of one of ours, None when it has no counterpart."""
        for own, foreign in self._rows:
            values = own.match(ours)
            if values is not None:
                return foreign.fill(values)
        return None


def conv_norm(ours: str, convolution: str, norm: str) -> list[Row]:
    """A convolution and its norm."""
    return [(ours + ".{wb}", convolution + ".{wb}"), (ours + ".norm.{leaf}", norm + ".{leaf}")]


def tower_rows(ours: str, convolution: str, norm: str) -> list[Row]:
    """A tower of convolutions and norms; the norm is GroupNorm or has one BatchNorm per level."""
    return [
        (ours + ".{i}.{wb}", convolution + ".{wb}"),
        (ours + ".{i}.norm.{wb}", norm + ".{wb}"),
        (ours + ".{i}.norm.{l}.{leaf}", norm + ".{l}.{leaf}"),
    ]


def sequential_tower(ours: str, theirs: str) -> list[Row]:
    """A tower that is a flat sequence convolution, norm, ReLU, ..."""
    return tower_rows(ours, theirs + ".{3*i}", theirs + ".{3*i+1}")


def d2_resnet(prefix: str) -> list[Row]:
    """detectron2's ResNet names under ``prefix`` (docs/import.md)."""
    block = "res{s}.{b}."
    return [
        ("backbone.stem.weight", prefix + "stem.conv1.weight"),
        ("backbone.stem.norm.{leaf}", prefix + "stem.conv1.norm.{leaf}"),
        ("backbone." + block + "conv{j}.weight", prefix + block + "conv{j}.weight"),
        ("backbone." + block + "conv{j}.norm.{leaf}", prefix + block + "conv{j}.norm.{leaf}"),
        ("backbone." + block + "shortcut.weight", prefix + block + "shortcut.weight"),
        ("backbone." + block + "shortcut.norm.{leaf}", prefix + block + "shortcut.norm.{leaf}"),
    ]


def torchvision_resnet(prefix: str) -> list[Row]:
    """torchvision's ResNet names under ``prefix``; mmdetection uses the same."""
    own, block = "backbone.res{s}.{b}.", prefix + "layer{s-1}.{b}."
    return [
        ("backbone.stem.weight", prefix + "conv1.weight"),
        ("backbone.stem.norm.{leaf}", prefix + "bn1.{leaf}"),
        (own + "conv{j}.weight", block + "conv{j}.weight"),
        (own + "conv{j}.norm.{leaf}", block + "bn{j}.{leaf}"),
        (own + "shortcut.weight", block + "downsample.0.weight"),
        (own + "shortcut.norm.{leaf}", block + "downsample.1.{leaf}"),
    ]
