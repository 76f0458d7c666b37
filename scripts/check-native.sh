#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds examples/native_app against (1) the installed Python package and (2) a C++ installation made without Python,
# and runs both with an empty environment. Needs `make build`; called by `make native`.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/build/native_app
mkdir -p "$out"

package=$(python -c 'from instseg._bin import native_root; print(native_root())')
torch=${INSTSEG_TORCH_DIR:-$(python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')}
python scripts/tiny_model.py "$out/tiny.safetensors" "$out/image.png"

consume() { # name, folder of instsegConfig.cmake, more CMake arguments
  echo "== native_app against $1"
  cmake -S examples/native_app -B "$out/$1" -G Ninja -DCMAKE_BUILD_TYPE=Release -Dinstseg_DIR="$2" "${@:3}" >/dev/null
  cmake --build "$out/$1" >/dev/null
  env -i "$out/$1/native_app" "$out/tiny.safetensors" "$out/image.png" | tail -n 1 | tee "$out/$1.txt"
  grep -q '^[1-9][0-9]* detections$' "$out/$1.txt"
}

consume package "$package/share/cmake/instseg"

cmake --preset release -DINSTSEG_BUILD_PYTHON=OFF -DINSTSEG_TORCH_DIR="$torch" >/dev/null
cmake --build --preset release
cmake --install build/release --prefix "$out/prefix" >/dev/null
env -i "$out/prefix/bin/instseg-infer" --version
consume prefix "$out/prefix/lib/cmake/instseg" -DINSTSEG_TORCH_DIR="$torch"

diff "$out/package.txt" "$out/prefix.txt"
echo "both programs agree"
