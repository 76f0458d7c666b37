# SPDX-License-Identifier: Apache-2.0
"""What an installed package holds: native parts, relative run paths, no trace of the building machine."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import instseg
from instseg._bin import native_root

ROOT = native_root()
SOURCES = Path(__file__).parents[2]

if "site-packages" not in ROOT.parts:
    pytest.skip(f"instseg is imported from a development tree, {ROOT}", allow_module_level=True)

EXTENSION = next(ROOT.glob("_C.*.so"))
LIBRARY = ROOT / "lib" / "libinstseg.so"
PROGRAM = ROOT / "bin" / "instseg-infer"
RUN_PATHS = {
    EXTENSION: ["$ORIGIN/lib", "$ORIGIN/../torch/lib"],
    LIBRARY: ["$ORIGIN", "$ORIGIN/../../torch/lib"],
    PROGRAM: ["$ORIGIN/../lib", "$ORIGIN/../../torch/lib"],
}


def dynamic(file: Path, key: str) -> list[str]:
    """Values of a key of the dynamic section, e.g. NEEDED."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    text = subprocess.run([readelf, "-d", file], capture_output=True, text=True, check=True).stdout
    return re.findall(rf"\({key}\).*\[(.*)\]", text)


def test_holds_every_native_part() -> None:
    for part in (
        "include/instseg/instseg.h",
        "include/instseg/ops/nms.h",
        "share/cmake/instseg/instsegConfig.cmake",
    ):
        assert (ROOT / part).is_file(), part
    assert PROGRAM.stat().st_mode & 0o111
    files = {Path(str(file)).name for file in importlib.metadata.files("instseg") or []}
    assert {"LICENSE", "NOTICE"} <= files


def test_holds_the_model_files_of_the_sources() -> None:
    sources = {path.stem for path in (SOURCES / "python" / "instseg" / "models").glob("*.safetensors")}
    assert set(instseg.shipped_models()) == sources
    for path in instseg.shipped_models().values():
        assert instseg.load(path).config.num_classes > 0
        assert path.stat().st_size <= 16e6


@pytest.mark.parametrize("file", list(RUN_PATHS), ids=lambda file: file.name)
def test_run_paths_are_relative(file: Path) -> None:
    (run_path,) = dynamic(file, "RUNPATH") or dynamic(file, "RPATH")
    assert run_path.split(":") == RUN_PATHS[file]


@pytest.mark.parametrize("file", list(RUN_PATHS), ids=lambda file: file.name)
def test_links_no_openmp_runtime_of_its_own(file: Path) -> None:
    assert not [name for name in dynamic(file, "NEEDED") if "omp" in name]


def test_one_openmp_runtime_is_loaded() -> None:
    code = "import instseg; print(open('/proc/self/maps').read())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    runtimes = set(re.findall(r"/\S*/lib[gi]?omp\S*", result.stdout))
    assert len(runtimes) == 1, runtimes


@pytest.mark.parametrize("file", list(RUN_PATHS), ids=lambda file: file.name)
def test_binaries_do_not_name_the_build_machine(file: Path) -> None:
    content = file.read_bytes()
    for folder in (SOURCES, Path(torch.__file__).parent):
        assert str(folder).encode() not in content, folder


def test_cmake_package_has_no_absolute_path() -> None:
    scripts = list((ROOT / "share" / "cmake" / "instseg").glob("*.cmake"))
    assert len(scripts) >= 4
    for script in scripts:
        text = re.sub(r"#.*", "", script.read_text())
        # What CMake writes itself to recognise a prefix below /usr is not a path of a builder.
        found = [
            path
            for path in re.findall(r"(?<![\w}.$/\"])\"?(/[\w.-]+/[\w./-]+)", text)
            if not path.startswith("/usr/")
        ]
        assert found == [], script.name


def test_private_libraries_stay_private() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    text = subprocess.run(
        [nm, "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split()[-1] for line in text.splitlines()]
    assert any(name.startswith("_ZN7instseg") for name in names)
    assert [name for name in names if name.startswith(("_ZN8nlohmann", "_ZNK8nlohmann", "cuda"))] == []


def test_program_is_on_the_path_of_the_environment() -> None:
    shim = Path(sys.executable).parent / "instseg-infer"
    result = subprocess.run([shim, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("instseg ")
