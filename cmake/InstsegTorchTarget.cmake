# instseg_make_torch_target(<name> <torch root>)
# An imported target for a shared libtorch, from the pip wheel or the libtorch zip: include directories and
# libraries only, so that neither a CUDA toolkit nor MKL is searched for (docs/building.md).
function(instseg_make_torch_target name root)
  if(TARGET ${name})
    return()
  endif()
  add_library(${name} INTERFACE IMPORTED)
  target_compile_features(${name} INTERFACE cxx_std_20)
  target_include_directories(${name} SYSTEM INTERFACE ${root}/include ${root}/include/torch/csrc/api/include)
  set(libs torch_cpu c10)
  if(EXISTS ${root}/lib/libtorch_cuda.so)
    list(APPEND libs torch_cuda c10_cuda)
  endif()
  target_link_directories(${name} INTERFACE ${root}/lib)
  # libtorch.so and libtorch_cuda.so are reached only through registrations: keep them.
  target_link_libraries(${name} INTERFACE "-Wl,--no-as-needed" torch ${libs} "-Wl,--as-needed")
  target_link_options(${name} INTERFACE "LINKER:-rpath-link,${root}/lib" "LINKER:--allow-shlib-undefined")
endfunction()
