# How each outside C++ dependency is found; nothing is vendored. See third_party/README.md.

# nlohmann-json: Debian's nlohmann-json3-dev, or the headers inside the PyPI package nlohmann-json.
find_path(INSTSEG_JSON_INCLUDE nlohmann/json.hpp)
if(NOT INSTSEG_JSON_INCLUDE AND Python_EXECUTABLE)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
      "import importlib.util as u; s = u.find_spec('nlohmann_json'); print(s.submodule_search_locations[0] + '/include' if s else '')"
    OUTPUT_VARIABLE _json OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(_json)
    set(INSTSEG_JSON_INCLUDE ${_json} CACHE PATH "Folder of nlohmann/json.hpp" FORCE)
  endif()
endif()
if(NOT INSTSEG_JSON_INCLUDE)
  message(FATAL_ERROR "nlohmann-json not found: apt-get install nlohmann-json3-dev, pip install nlohmann-json, "
    "or pass -DINSTSEG_JSON_INCLUDE=<folder of nlohmann/json.hpp>")
endif()
add_library(instseg_json INTERFACE)
target_include_directories(instseg_json SYSTEM INTERFACE ${INSTSEG_JSON_INCLUDE})

if(INSTSEG_WITH_JPEG)
  find_package(JPEG)
  if(NOT JPEG_FOUND)
    message(FATAL_ERROR "libjpeg not found: apt-get install libjpeg62-turbo-dev, or pass -DINSTSEG_WITH_JPEG=OFF")
  endif()
endif()

if(INSTSEG_WITH_PNG)
  find_package(PNG)
  if(NOT PNG_FOUND)
    message(FATAL_ERROR "libpng not found: apt-get install libpng-dev, or pass -DINSTSEG_WITH_PNG=OFF")
  endif()
endif()

if(INSTSEG_BUILD_TESTS)
  find_package(GTest)
  if(NOT GTest_FOUND)
    message(FATAL_ERROR "GoogleTest not found: apt-get install libgtest-dev, or pass -DINSTSEG_BUILD_TESTS=OFF")
  endif()
endif()
