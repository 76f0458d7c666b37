# SPDX-License-Identifier: Apache-2.0
"""What an import did, name by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

_SHOWN = 8


@dataclass
class Report:
    """Names of an import. ``str()`` is for people, :meth:`to_dict` for programs."""

    source: str = ""
    """Path of the checkpoint, or "memory"."""
    container: str = ""
    """How it was stored: "torch zip", "torch legacy", "pickle", "safetensors" or "memory"."""
    flavor: str = ""
    """Whose names it uses, e.g. "adelaidet"."""
    preset: str = ""
    """Preset the configuration was taken from; empty for a configuration given by the caller."""
    matched: dict[str, str] = field(default_factory=dict)
    """Name in the checkpoint -> our name."""
    missing: list[str] = field(default_factory=list)
    """Our names that got no value."""
    unexpected: list[str] = field(default_factory=list)
    """Names in the checkpoint that have no place in the model."""
    ignored: list[str] = field(default_factory=list)
    """Names in the checkpoint that are no weights of this model by design, e.g. ``num_batches_tracked``."""
    notes: list[str] = field(default_factory=list)
    """One sentence each: casts, assumptions, differences in preprocessing."""

    @property
    def ok(self) -> bool:
        """Every parameter got its value and nothing was left over."""
        return not self.missing and not self.unexpected

    def to_dict(self) -> dict[str, object]:
        """All fields as JSON types, and ``ok``."""
        return {**asdict(self), "ok": self.ok}

    def problem(self) -> str:
        """One line that says what does not fit; empty when everything does."""
        parts = []
        if self.missing:
            parts.append(
                f"{_count(self.missing, 'parameter')} of the model got no value: {_some(self.missing)}"
            )
        if self.unexpected:
            parts.append(
                f"{_count(self.unexpected, 'name')} in the file fit nothing: {_some(self.unexpected)}"
            )
        return "; ".join(parts)

    def __str__(self) -> str:
        lines = [f"{self.source or 'checkpoint'}: {self.container}, {self.flavor} names"]
        if self.preset:
            lines.append(f"  preset      {self.preset}")
        lines.append(f"  matched     {len(self.matched)}")
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("ignored", self.ignored),
        ):
            lines.append(f"  {title:<11} {len(names)}" + (f"  ({_some(names)})" if names else ""))
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _count(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}" + ("" if len(names) == 1 else "s")


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f", and {rest} more" if rest > 0 else "")
