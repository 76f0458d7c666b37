# SPDX-License-Identifier: Apache-2.0
"""Memory that a run has needed."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peaks since the process began, MB: of the process, and with CUDA of the tensors on ``device``."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
        peaks["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if device.type == "cuda":
        peaks["peak_cuda_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks
