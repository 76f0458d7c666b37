# SPDX-License-Identifier: Apache-2.0
"""Resident memory of one R-50 inference at 800x1333, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import instseg

LIMIT = 1.2e9  # bytes

RUN = r"""
import re, sys
import numpy as np
import instseg
predictor = instseg.Predictor(sys.argv[1])
predictor(np.zeros((800, 1333, 3), np.uint8))
# Not ru_maxrss: it starts at the size of the process that this one was started from.
print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


def test_one_inference_stays_under_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    instseg.Model("fcos_R_50_1x").save(path)
    run = subprocess.run([sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, check=True)
    assert 0 < int(run.stdout) < LIMIT
    print(f"peak resident memory: {int(run.stdout) / 1e6:.0f} MB")
