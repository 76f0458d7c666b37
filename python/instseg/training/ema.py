# SPDX-License-Identifier: Apache-2.0
"""A moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def ema_decay(decay: float, updates: int) -> float:
    """Decay of the update after ``updates`` others: it rises to ``decay``, lest the average stays at the
    initial weights for long."""
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """Average of a model's parameters and buffers; of integers (counters) the newest value.

    Args:
        model: its current state is where the average begins.
        decay: share of the old average that remains with each update, once warmed up (ema_decay()).
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._model = model
        self._values = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the model's current state: average = d * average + (1 - d) * state."""
        decay = ema_decay(self.decay, self.updates)
        self.updates += 1
        state = self._model.state_dict()
        averages, values = [], []
        for name, average in self._values.items():
            if average.is_floating_point():
                averages.append(average)
                values.append(state[name])
            else:
                average.copy_(state[name])
        torch._foreach_lerp_(averages, values, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for its state; afterwards what it had before, to the bit."""
        state = self._model.state_dict()
        kept = {name: tensor.detach().clone() for name, tensor in state.items()}
        _fill(state, self._values)
        try:
            yield
        finally:
            _fill(self._model.state_dict(), kept)

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict() takes."""
        return {"updates": self.updates, "values": self._values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the state of another one."""
        self.updates = int(state["updates"])
        _fill(self._values, state["values"])


@torch.no_grad()
def _fill(tensors: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
