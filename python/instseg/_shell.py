# SPDX-License-Identifier: Apache-2.0
"""Modules of torch.nn that hold the tensors a C++ model computes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


class Shared(nn.Module):
    """A module whose parameters and buffers are C++ tensors: they may change, but never be exchanged."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Shared:
        # nn.Module's own _apply puts new buffers into the dictionary, which C++ would not see.
        with torch.no_grad():
            for tensor in [*self.parameters(recurse), *self.buffers(recurse)]:
                grad = tensor.grad
                tensor.data = _not_meta(fn(tensor))
                if grad is not None:
                    grad.data = fn(grad)
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """nn.Module.load_state_dict; `assign=True` raises, because C++ would keep the old tensors."""
        if assign or torch.__future__.get_swap_module_params_on_conversion():
            raise ValueError(
                "[Model.load_state_dict] assign=True and swap_module_params_on_conversion exchange parameter "
                "objects, which the C++ model would not see; load without them"
            )
        return super().load_state_dict(state_dict, strict=strict)


class Node(Shared):
    """One dotted name of the C++ model. It holds tensors; the computation is in C++."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("[Model] parts of a model cannot be called; use Model.intermediates(images)")

    def train(self, mode: bool = True) -> Node:
        if mode != self.training:
            raise RuntimeError(
                "[Model.train] a part cannot have its own mode; "
                "use backbone.norm and backbone.freeze of the config"
            )
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "[Model] parts of a model cannot be copied or pickled; copy the model or its state_dict()"
        )


def _not_meta(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:
        raise ValueError("[Model.to] the C++ model cannot live on the meta device")
    return tensor
