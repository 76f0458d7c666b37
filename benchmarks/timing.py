# SPDX-License-Identifier: Apache-2.0
"""Shared timing helper: interleaved runs, medians and spread; a ratio comes from one run."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def measure(
    functions: dict[str, Callable[[], Any]], repeats: int = 10, warmup: int = 2
) -> dict[str, list[float]]:
    """Milliseconds of each call. The functions take turns: a slow moment of the machine hits all."""
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def median(times: list[float]) -> float:
    return statistics.median(times)


def spread(times: list[float]) -> str:
    """Median and range, e.g. '812.0 ms (801.2-840.9)'."""
    return f"{median(times):.1f} ms ({min(times):.1f}-{max(times):.1f})"


def machine() -> dict[str, Any]:
    """What a reader needs to place the numbers."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def save(path: str | None, result: dict[str, Any]) -> None:
    if path:
        Path(path).write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n")
