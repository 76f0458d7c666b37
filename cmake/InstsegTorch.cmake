# Find libtorch: -DINSTSEG_TORCH_DIR=..., else Torch_DIR or CMAKE_PREFIX_PATH, else the torch of ${Python_EXECUTABLE}.
include(InstsegTorchTarget)
# `make` keeps its virtual environment here; an activated one, or -DPython_EXECUTABLE, comes first.
if(NOT Python_EXECUTABLE AND NOT DEFINED ENV{VIRTUAL_ENV} AND EXISTS ${PROJECT_SOURCE_DIR}/.venv/bin/python)
  set(Python_EXECUTABLE ${PROJECT_SOURCE_DIR}/.venv/bin/python)
endif()
if(INSTSEG_BUILD_PYTHON)
  find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
endif()

if(NOT INSTSEG_TORCH_DIR)
  find_path(_torch_cmake TorchConfig.cmake HINTS ${Torch_DIR} PATH_SUFFIXES share/cmake/Torch NO_CACHE)
  if(_torch_cmake)
    cmake_path(SET _torch_root NORMALIZE "${_torch_cmake}/../../..")
    string(REGEX REPLACE "/$" "" _torch_root "${_torch_root}")
  else()
    if(NOT Python_EXECUTABLE)
      find_package(Python COMPONENTS Interpreter)
    endif()
    if(Python_EXECUTABLE)
      # No `import torch`: it takes seconds and needs a working driver stack.
      execute_process(
        COMMAND ${Python_EXECUTABLE} -c
          "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
        OUTPUT_VARIABLE _torch_root OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    endif()
  endif()
  if(NOT _torch_root)
    message(FATAL_ERROR "libtorch not found: pass -DINSTSEG_TORCH_DIR=<libtorch or site-packages/torch>")
  endif()
  set(INSTSEG_TORCH_DIR "${_torch_root}" CACHE PATH "Root of libtorch" FORCE)
endif()

set(_version_h ${INSTSEG_TORCH_DIR}/include/torch/headeronly/version.h)
if(NOT EXISTS ${_version_h})
  set(_version_h ${INSTSEG_TORCH_DIR}/include/torch/csrc/api/include/torch/version.h)
endif()
if(NOT EXISTS ${_version_h})
  message(FATAL_ERROR "INSTSEG_TORCH_DIR=${INSTSEG_TORCH_DIR} is not a libtorch: no version.h below include/torch")
endif()
file(STRINGS ${_version_h} _v REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" INSTSEG_TORCH_VERSION "${_v}")
if(INSTSEG_TORCH_VERSION VERSION_LESS 2.7)
  message(FATAL_ERROR "instseg needs libtorch 2.7 or newer, found ${INSTSEG_TORCH_VERSION} at ${INSTSEG_TORCH_DIR}")
endif()
instseg_make_torch_target(instseg_torch ${INSTSEG_TORCH_DIR})
instseg_hide_path(${INSTSEG_TORCH_DIR}/include/ "")

# at::parallel_for runs serially unless its caller is compiled with -fopenmp. Nothing links libgomp: the symbols come
# from the one libtorch brings, because a second OpenMP runtime in a process means two thread pools.
file(STRINGS ${INSTSEG_TORCH_DIR}/include/ATen/Config.h _openmp REGEX "define AT_PARALLEL_OPENMP 1")
if(_openmp AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(instseg_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
elseif(_openmp)
  message(WARNING "instseg's own CPU kernels run on one thread: this libtorch uses GNU OpenMP, so build with g++")
endif()
message(STATUS "instseg: libtorch ${INSTSEG_TORCH_VERSION} at ${INSTSEG_TORCH_DIR}")

if(INSTSEG_BUILD_PYTHON)
  add_library(instseg_torch_python INTERFACE)
  target_link_libraries(instseg_torch_python INTERFACE instseg_torch ${INSTSEG_TORCH_DIR}/lib/libtorch_python.so)
endif()
