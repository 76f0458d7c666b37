# ccache when present; instseg_options: warnings, OpenMP and sanitizers for every target of this project.
find_program(INSTSEG_CCACHE ccache)
if(INSTSEG_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${INSTSEG_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${INSTSEG_CCACHE})
endif()

add_library(instseg_options INTERFACE)
# Designated initialisers leave fields at their defaults on purpose.
target_compile_options(instseg_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-missing-field-initializers>")
if(INSTSEG_WERROR)
  target_compile_options(instseg_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror> "$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings>")
endif()
if(INSTSEG_SANITIZE)
  # g++ reports std::optional as maybe uninitialised once checks are inserted; the optimised build keeps the warning.
  target_compile_options(instseg_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${INSTSEG_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>"
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  target_link_options(instseg_options INTERFACE -fsanitize=${INSTSEG_SANITIZE})
endif()

# __FILE__ in checks and debug information must not carry the builder's paths.
function(instseg_hide_path from to)
  target_compile_options(instseg_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${from}=${to}>")
endfunction()
instseg_hide_path(${PROJECT_SOURCE_DIR}/ "")
