# The GPU kernels, compiled by nvcc where it is: a fatbin, which the library finds in kernels/ beside itself. Nothing else needs CUDA, neither to build nor to start.
#   V2E_CUDA  AUTO takes nvcc if it is found, ON needs it, OFF leaves the kernels out. The environment variable of the
#             same name is its default.
if(DEFINED ENV{V2E_CUDA})
  set(V2E_CUDA_DEFAULT "$ENV{V2E_CUDA}")
else()
  set(V2E_CUDA_DEFAULT AUTO)
endif()
set(V2E_CUDA "${V2E_CUDA_DEFAULT}" CACHE STRING "GPU kernels: AUTO, ON or OFF")
set_property(CACHE V2E_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT V2E_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "V2E_CUDA is ${V2E_CUDA}; it may be AUTO, ON or OFF")
endif()

set(V2E_CUDA_TOOLKIT 0) # 1000 * major + 10 * minor, as the driver counts; 0: no kernels
if(NOT V2E_CUDA STREQUAL "OFF")
  find_program(V2E_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(V2E_NVCC)
    execute_process(COMMAND "${V2E_NVCC}" --version OUTPUT_VARIABLE V2E_NVCC_VERSION RESULT_VARIABLE V2E_NVCC_RESULT)
    if(V2E_NVCC_RESULT EQUAL 0 AND V2E_NVCC_VERSION MATCHES "release ([0-9]+)\\.([0-9]+)")
      math(EXPR V2E_CUDA_TOOLKIT "1000 * ${CMAKE_MATCH_1} + 10 * ${CMAKE_MATCH_2}")
    endif()
  endif()
  if(V2E_CUDA_TOOLKIT LESS 12080 AND V2E_CUDA STREQUAL "ON")
    message(FATAL_ERROR "V2E_CUDA is ON, but there is no nvcc of CUDA 12.8 or later")
  endif()
endif()

if(V2E_CUDA_TOOLKIT LESS 12080) # the first that knows compute capability 12.0
  set(V2E_CUDA_TOOLKIT 0)
  message(STATUS "GPU kernels: none (V2E_CUDA=${V2E_CUDA}); the library runs on the CPU alone")
else()
  message(STATUS "GPU kernels: by ${V2E_NVCC}")
  set(V2E_GPU_TARGETS 75 80 86 87 89 90 120)
  # Later GPUs compile the PTX when they load it.
  set(V2E_GPU_OPTIONS -gencode arch=compute_75,code=compute_75)
  foreach(target IN LISTS V2E_GPU_TARGETS)
    list(APPEND V2E_GPU_OPTIONS -gencode "arch=compute_${target},code=sm_${target}")
  endforeach()
  file(GLOB V2E_KERNEL_FILES CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/kernels/*")
  set(V2E_FATBIN "${CMAKE_CURRENT_BINARY_DIR}/kernels/valley2.fatbin")
  add_custom_command(OUTPUT "${V2E_FATBIN}"
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${CMAKE_CURRENT_BINARY_DIR}/kernels"
    COMMAND "${V2E_NVCC}" -std=c++17 -O3 -fatbin --no-compress --threads 2 ${V2E_GPU_OPTIONS}
      "-I${CMAKE_CURRENT_LIST_DIR}/.."
      "${CMAKE_CURRENT_LIST_DIR}/kernels/valley2.cu" -o "${V2E_FATBIN}"
    DEPENDS ${V2E_KERNEL_FILES} VERBATIM)
  add_custom_target(valley2_gpu_kernels ALL DEPENDS "${V2E_FATBIN}")
  install(FILES "${V2E_FATBIN}" DESTINATION valley2_edge/runtime/kernels)
endif()
set_source_files_properties("${CMAKE_CURRENT_LIST_DIR}/device.cpp" PROPERTIES
  COMPILE_DEFINITIONS V2E_CUDA_TOOLKIT=${V2E_CUDA_TOOLKIT})
