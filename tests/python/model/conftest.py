# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny_model import tiny_config, tiny_images

import instseg


@pytest.fixture
def images() -> list[npt.NDArray[np.uint8]]:
    return tiny_images()


@pytest.fixture
def make() -> Callable[..., instseg.Model]:
    """Builds the same tiny model each time."""

    def build(norm: str = "bn", **head: Any) -> instseg.Model:
        torch.manual_seed(0)
        return instseg.Model(tiny_config(norm, **head))

    return build
