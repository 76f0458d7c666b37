# The two commands of the README are `make demo` and `make test`; both install what is missing first.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help demo test build lint format asan native clean distclean

VENV ?= .venv
PYTHON ?= python3
JOBS ?= $(shell nproc)
export PATH := $(abspath $(VENV))/bin:$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
# One compiler name for every build tree, so that ccache recognises what another one compiled.
export CXX := g++
# Tests and demos must not pick up another package of the same name.
unexport PYTHONPATH

ready := $(VENV)/.ready
installed := build/wheel/.installed
sources := CMakeLists.txt pyproject.toml $(wildcard LICENSE NOTICE README.md) \
  $(shell find cmake cpp python tests/cpp third_party -type f -not -path '*/.*' -not -path '*/__pycache__/*')
cxx_files = $(shell find cpp tests/cpp examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

help: ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/'

demo: $(installed) ## train CondInst on cell nuclei and show its masks
	python demo/demo.py

test: $(installed) ## build what is needed and run every C++ and Python test
	ctest --test-dir build/wheel --output-on-failure --no-tests=error
	python -m pytest tests/python

build: $(installed) ## build and install into .venv

lint: $(ready) ## formatting, ruff and mypy
	clang-format --dry-run --Werror $(cxx_files)
	ruff check .
	ruff format --check .
	mypy

format: $(ready) ## apply the formatting
	clang-format -i $(cxx_files)
	ruff check --fix .
	ruff format .

asan: $(ready) ## C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	cmake --preset asan
	cmake --build --preset asan
	ctest --preset asan

native: $(installed) ## build examples/native_app against the package and a C++ installation, run both
	scripts/check-native.sh

clean: ## remove everything built
	rm -rf build

distclean: clean ## and the virtual environment
	rm -rf $(VENV)

$(ready): requirements/dev.txt scripts/bootstrap.sh
	PYTHON=$(PYTHON) scripts/bootstrap.sh $(VENV)
	@touch $@

# One build tree gives the wheel, the C++ tests and the extension.
$(installed): $(ready) $(sources)
	python -m pip install -v --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall . \
	  --config-settings=build-dir=build/wheel --config-settings=cmake.define.INSTSEG_BUILD_TESTS=ON
	@touch $@
