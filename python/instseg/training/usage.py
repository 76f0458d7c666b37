# SPDX-License-Identifier: Apache-2.0
"""Memory that a run has needed."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peaks since the process began, MB: of the process, and with CUDA of the tensors on ``device``."""
    peaks = {}
    process = _process_peak()
    if process is not None:
        peaks["peak_memory_mb"] = round(process / 1e6, 1)
    if device.type == "cuda":
        peaks["peak_cuda_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks


def _process_peak() -> int | None:
    """Bytes of main memory, None where no one counts them."""
    if sys.platform == "linux":
        # getrusage would begin with the peak of the process that started this one.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
