# SPDX-License-Identifier: Apache-2.0
"""Recipe files: where they are, what they inherit, the short forms in them. No field is checked here."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

BUNDLED = Path(__file__).parent / "recipes"


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml") if not path.name.startswith("_"))


def split_of(text: str | None) -> dict[str, str]:
    """Annotations and images of the short form ``JSON`` or ``JSON:DIR``; nothing of an empty one."""
    if not text:
        return {"annotations": "", "images": ""}
    annotations, separator, images = text.rpartition(":")
    # A colon may also belong to the JSON file's own path.
    if not separator or not annotations or text.endswith(".json"):
        annotations, images = text, ""
    if not images:
        beside = Path(annotations).parent
        images = str(beside / "images" if (beside / "images").is_dir() else beside)
    return {"annotations": annotations, "images": images}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` on top, mappings merged key by key."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def find(name: str, beside: Path | None) -> Path:
    """File of a recipe's name or path; ``beside`` is the recipe that refers to it."""
    candidates = [Path(name), BUNDLED / f"{name}.yaml"]
    if beside is not None:
        candidates = [beside.parent / name, beside.parent / f"{name}.yaml", BUNDLED / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    where = f" (base of '{beside}')" if beside is not None else ""
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        raise FileNotFoundError(f"[load_recipe] recipe file '{name}'{where} does not exist")
    names = bundled_recipes()
    close = difflib.get_close_matches(name, names, 3, 0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"recipes are {', '.join(names)}"
    raise ValueError(f"[load_recipe] no recipe '{name}'{where}; {hint}")


def read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in chain:
        raise ValueError(f"[load_recipe] '{path}' is its own base")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"[load_recipe] '{path}' is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"[load_recipe] '{path}' does not hold a mapping of recipe fields")
    expand(values)
    base = values.pop("base", None)
    values.setdefault("name", path.stem)
    if base is None:
        return values
    return merge(read(find(str(base), path), (*chain, path)), values)


def expand(values: dict[str, Any]) -> None:
    """Replaces short forms by what they stand for, so that both merge alike."""
    if isinstance(values.get("model"), str):
        values["model"] = {"preset": values["model"]}
    data = values.get("data")
    if not isinstance(data, dict):
        return
    for split in ("train", "val"):
        if split in data and (data[split] is None or isinstance(data[split], str)):
            data[split] = split_of(data[split])
    if isinstance(data.get("crop"), bool):
        data["crop"] = {"enabled": data["crop"]}


def whole_prefix(parts: list[str], entry: bool) -> list[str]:
    """solver.layers.PREFIX (of a whole entry) or solver.layers.PREFIX.FIELD, with the dots of PREFIX kept."""
    if len(parts) < 4:
        return parts
    end = len(parts) - (not entry)
    return [*parts[:2], ".".join(parts[2:end]), *parts[end:]]


def yaml_value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        # YAML 1.1 reads 1e-4 as text for want of a dot.
        try:
            return float(value)
        except ValueError:
            return value
    return value
