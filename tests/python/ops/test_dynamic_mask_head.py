# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from unit_files import load, tensor

from instseg import ops

Arguments = tuple[torch.Tensor, ...]


def twin(arguments: Arguments, head: ops.DynamicHead) -> torch.Tensor:
    """One convolution with as many groups as instances per layer."""
    features, parameters, images, locations, scales = arguments
    n, (height, width) = len(images), features.shape[-2:]
    x = features[images]
    if head.coordinates != "none":
        y_cells, x_cells = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([x_cells, y_cells]).to(features) * head.stride + head.stride // 2
        if head.coordinates == "relative":
            coordinates = (locations[:, :, None, None] - pixels) / scales[:, None, None, None]
        else:
            extent = torch.tensor([width, height]).to(features) * head.stride
            coordinates = (2 * pixels / extent[:, None, None] - 1).expand(n, 2, height, width)
        x = torch.cat([coordinates.to(features), x], 1)
    sizes = [x.shape[1]] + [head.width] * (head.depth - 1) + [1]
    counts = [a * b for a, b in pairwise(sizes)]
    split = parameters.split(counts + sizes[1:], dim=1)
    x = x.reshape(1, -1, height, width)
    for layer in range(head.depth):
        weight = split[layer].reshape(n * sizes[layer + 1], sizes[layer], 1, 1)
        x = F.conv2d(x, weight, split[head.depth + layer].reshape(-1), groups=n)
        if layer < head.depth - 1:
            x = x.relu()
    return x[0]


def random_arguments(channels: int, head: ops.DynamicHead, images: list[int]) -> Arguments:
    """Values of few bits: no activation falls on the other side of zero than in float64."""
    n = len(images)
    return (
        torch.randint(-4, 5, (3, channels, 8, 64)) / 4,
        torch.randint(-4, 5, (n, head.parameters(channels))) / 4,
        torch.tensor(images),
        torch.randint(0, 400, (n, 2)).float(),
        2.0 ** torch.randint(6, 10, (n,)),
    )


def test_logits_of_the_original() -> None:
    unit = load("condinst_mask_head")
    scales = torch.cat([tensor(unit["sizes_of_interest"]), torch.tensor([1024])])
    logits = ops.dynamic_mask_head(
        tensor(unit["mask_feats"]),
        tensor(unit["params"]),
        tensor(unit["im_inds"]),
        tensor(unit["locations"]),
        scales[tensor(unit["fpn_levels"])].float(),
    )
    expected = tensor(unit["logits"])[:, 0]
    torch.testing.assert_close(ops.aligned_bilinear(logits, 2), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("channels", [0, 1, 8])
@pytest.mark.parametrize("coordinates", ["relative", "absolute", "none"])
@pytest.mark.parametrize("depth, width", [(1, 8), (2, 8), (3, 2), (3, 4), (3, 7), (3, 8), (3, 16), (4, 8)])
def test_matches_twin(depth: int, width: int, coordinates: str, channels: int) -> None:
    if channels == 0 and coordinates == "none":
        pytest.skip("no input")
    torch.manual_seed(0)
    head = ops.DynamicHead(depth=depth, width=width, coordinates=coordinates)
    arguments = random_arguments(channels, head, [2, 0, 2, 0, 0])
    ours = [t.clone().requires_grad_(t.is_floating_point()) for t in arguments]
    exact = [t.double().requires_grad_() if t.is_floating_point() else t for t in arguments]
    logits, expected = ops.dynamic_mask_head(*ours, head), twin(tuple(exact), head)
    weight = torch.randint(-4, 5, logits.shape) / 4
    (logits * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(logits.double(), expected, rtol=2e-6, atol=2e-6)
    for mine, theirs in zip(ours[:2], exact[:2], strict=True):
        if mine.numel() == 0:
            continue
        assert mine.grad is not None and theirs.grad is not None
        bound = 2e-6 * max(1.0, theirs.grad.abs().max().item())
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=0, atol=bound)
    assert ours[3].grad is None and ours[4].grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    arguments = random_arguments(8, ops.DynamicHead(), [0, 1])
    features = arguments[0].to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    logits = ops.dynamic_mask_head(features, *arguments[1:])
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, ops.dynamic_mask_head(*arguments), rtol=0, atol=0)
    logits.sum().backward()
    assert features.grad is not None and features.grad.dtype == dtype


def test_no_instances() -> None:
    features = torch.randn(2, 8, 3, 4, requires_grad=True)
    empty = torch.empty(0)
    logits = ops.dynamic_mask_head(
        features, torch.empty(0, 169), empty.long(), torch.empty(0, 2), empty, head=ops.DynamicHead()
    )
    assert logits.shape == (0, 3, 4)
    logits.sum().backward()
    assert features.grad is not None and not features.grad.any()


def test_heads_and_errors() -> None:
    head = ops.DynamicHead()
    assert (head.depth, head.width, head.coordinates, head.stride) == (3, 8, "relative", 8)
    assert head.parameters(channels=8) == 169
    assert ops.DynamicHead(depth=1).parameters(8) == 11
    with pytest.raises(ValueError, match=r"^\[dynamic_mask_head\] depth is 9; use 1\.\.8$"):
        ops.DynamicHead(depth=9).parameters(8)
    arguments = random_arguments(8, head, [0, 1])
    with pytest.raises(ValueError, match=r"images\[1\] is 3; the batch has 3 images"):
        ops.dynamic_mask_head(arguments[0], arguments[1], torch.tensor([0, 3]), *arguments[3:])
    with pytest.raises(TypeError, match="parameters is Double"):
        ops.dynamic_mask_head(arguments[0], arguments[1].double(), *arguments[2:])
