#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds libinstseg and instseg-infer natively on an NVIDIA Jetson (or in an L4T container) and installs them.
# Written from the documentation of the boards; not run on one by the project's CI.
#
#   scripts/build-jetson.sh TORCH_DIR [PREFIX]        TORCH_DIR: the folder of an installed torch wheel,
#     python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])'
#
#   board                        GPU code   JetPack   CUDA   torch wheel
#   Xavier NX, AGX Xavier        72         5         11.4   none new enough (needs torch >= 2.7); use --device cpu
#   Orin Nano, NX, AGX Orin      87         6         12.6   Jetson AI Lab index, jp6/cu126 (PyPI's aarch64 wheels are for servers)
#   AGX Thor                     110        7         13.0   PyPI or PyTorch index, cu130
#
# The board's compiler must know C++20: g++ 11 of JetPack 6 does. Memory: one job per 2 GB; JOBS=1 on an Orin Nano.
set -euo pipefail
cd "$(dirname "$0")/.."

torch=${1:?"usage: scripts/build-jetson.sh TORCH_DIR [PREFIX]"}
prefix=${2:-$HOME/instseg}
export PATH=$PATH:/usr/local/cuda/bin

case $(tr -d '\0' </proc/device-tree/model 2>/dev/null || true) in
  *Thor*) arch=110-real ;;
  *Orin*) arch=87-real ;;
  *) arch=${CUDAARCHS:?"unknown board: set CUDAARCHS, e.g. CUDAARCHS=87-real"} ;;
esac

packages=(cmake ninja-build g++ libjpeg-dev libpng-dev nlohmann-json3-dev)
for package in "${packages[@]}"; do
  if ! dpkg -s "$package" >/dev/null 2>&1; then
    echo "missing system packages; run: sudo apt-get install ${packages[*]}" >&2
    exit 1
  fi
done

cmake -S . -B build/jetson -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix" \
  -DINSTSEG_BUILD_PYTHON=OFF -DINSTSEG_TORCH_DIR="$torch" -DINSTSEG_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$arch"
cmake --build build/jetson --parallel "${JOBS:-$(nproc)}"
cmake --install build/jetson
"$prefix/bin/instseg-infer" --version
