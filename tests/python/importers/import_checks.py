# SPDX-License-Identifier: Apache-2.0
"""What a complete import is."""

from __future__ import annotations

import torch

from instseg import Model

COUNTER = "num_batches_tracked"


def assert_complete(model: Model, state: dict[str, torch.Tensor], matched: dict[str, str]) -> None:
    """Every parameter has exactly one source of equal shape, and its values."""
    own = model.state_dict()
    assert len(set(matched.values())) == len(matched)
    assert {name for name in own if not name.endswith(COUNTER)} <= set(matched.values())
    assert set(matched) <= {name.removeprefix("module.") for name in state}
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    for source, target in matched.items():
        assert torch.equal(plain[source].reshape(own[target].shape).to(own[target].dtype), own[target]), (
            source
        )
