# SPDX-License-Identifier: Apache-2.0
"""Whether two files, or a model and a file, are about the same classes."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 6  # names a message lists


def check_same_classes(
    expected: Sequence[str],
    found: Sequence[str],
    *,
    who: str,
    where: str,
    expected_ids: Sequence[int] | None = None,
    found_ids: Sequence[int] | None = None,
) -> None:
    """ValueError that names missing and extra classes unless ``found`` are the classes ``expected``.

    Their order does not matter, nor "N/A", which fills gaps of published label maps.

    Args:
        who: what expects them, e.g. "data.train".
        where: what has others, e.g. "data.val: 'val.json'".
        expected_ids: of each expected name; where both ids are given, a name must have the same.
        found_ids: of each found name.
    """
    missing = [name for name in expected if name not in set(found) and name != "N/A"]
    extra = [name for name in found if name not in set(expected) and name != "N/A"]
    faults = [f"missing {_listed(missing)}"] if missing else []
    faults += [f"extra {_listed(extra)}"] if extra else []
    if not faults and expected_ids is not None and found_ids is not None:
        ids = dict(zip(expected, expected_ids, strict=True))
        faults = [
            f"'{name}' has id {other}, expected {ids[name]}"
            for name, other in zip(found, found_ids, strict=True)
            if name != "N/A" and ids[name] != other
        ][:1]
    if faults:
        raise ValueError(f"[data] {where} has other classes than {who}: {', '.join(faults)}")


def _listed(names: Sequence[str]) -> str:
    rest = f", ... ({len(names)})" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + rest
