#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prepares a Debian or Ubuntu machine that has python3, g++, make and git: system packages when they are missing, then
# the virtual environment $1 (default .venv) with requirements/dev.txt. Running it again changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}

has_header() { echo "#include <cstdio>
#include <$1>" | g++ -E -x c++ - >/dev/null 2>&1; }

missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || missing+=(python3-dev)
has_header jpeglib.h || missing+=(libjpeg-dev)
has_header png.h || missing+=(libpng-dev)
has_header gtest/gtest.h || missing+=(libgtest-dev)

if [ ${#missing[@]} -gt 0 ]; then
  command -v ccache >/dev/null || missing+=(ccache) # optional, so only along with others
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    sudo=(sudo -n)
    "${sudo[@]}" true 2>/dev/null || sudo=(no)
  fi
  if [ "${sudo[0]:-}" = no ] || ! command -v apt-get >/dev/null; then
    echo "missing system packages; run: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
  echo "installing system packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -q
  "${sudo[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -r requirements/dev.txt
