# SPDX-License-Identifier: Apache-2.0
"""What `import instseg` costs, loads, and says when it cannot work."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import instseg

HEAVY = (
    "pydantic",
    "rich",
    "typer",
    "pycocotools",
    "PIL",
    "tensorboard",
    "yaml",
    "safetensors",
    "matplotlib",
)


def python(code: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=check)


def test_import_time() -> None:
    code = (
        "import time, torch; start = time.perf_counter(); import instseg; print(time.perf_counter() - start)"
    )
    best = min(float(python(code).stdout) for _ in range(4))
    assert best <= 0.15, f"import instseg takes {best:.3f} s over import torch"


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import instseg; "
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = {name.split(".")[0] for name in python(code).stdout.split()}
    assert "instseg" in loaded
    assert not loaded.intersection(HEAVY)


def test_lazy_submodules() -> None:
    code = "import instseg; print('instseg.ops' in __import__('sys').modules, instseg.ops.nms.__name__)"
    assert python(code).stdout.split() == ["False", "nms"]
    code = "import sys, instseg; print(sorted(set(sys.modules) & {'instseg.importers', 'instseg.training'}))"
    assert python(code).stdout.strip() == "[]"
    assert {"ops", "importers", "training", "__version__", "create", "load", "convert"} <= set(dir(instseg))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = instseg.nonsense


def test_version() -> None:
    info = instseg.build_info()
    assert instseg.__version__ == info["version"]
    assert info["torch_version"].split(".")[:2] == torch.__version__.split(".")[:2]


@pytest.mark.parametrize("version", ["2.5.1", "3.13.0+cpu"])
def test_torch_of_another_minor(version: str) -> None:
    result = python(f"import torch; torch.__version__ = {version!r}; import instseg", check=False)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    built = instseg.build_info()["torch_version"]
    assert message.startswith("ImportError: instseg")
    for part in (f"built for torch {built}", f"torch {version} is installed", "pip install"):
        assert part in message


def test_torch_of_another_patch() -> None:
    major, minor = torch.__version__.split(".")[:2]
    python(f"import torch; torch.__version__ = '{major}.{minor}.99+other'; import instseg")


def test_extension_that_does_not_load() -> None:
    code = (
        "import sys, torch\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        from importlib.machinery import ModuleSpec, PathFinder\n"
        "        if name != 'instseg._C': return None\n"
        "        return ModuleSpec(name, self, origin=PathFinder.find_spec(name, path).origin)\n"
        "    def create_module(self, spec): raise ImportError('libx.so: undefined symbol: _ZN2at1xE')\n"
        "    def exec_module(self, module): pass\n"
        "sys.meta_path.insert(0, Broken())\n"
        "import instseg\n"
    )
    result = python(code, check=False)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    built = instseg.build_info()["torch_version"]
    for part in ("undefined symbol", f"built for torch {built}", torch.__version__, "pip install"):
        assert part in message
