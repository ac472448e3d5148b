# Every third-party part of DESIGN's table as one target each; rooms name only what they need.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(CURL REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
pkg_check_modules(onig REQUIRED IMPORTED_TARGET oniguruma)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)

if(QUANTD_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
  set(CMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE POST_BUILD)
endif()
if(QUANTD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

if(QUANTD_ENGINE)
  if(NOT IS_DIRECTORY "${QUANTD_LIBTORCH}/torch/include")
    message(FATAL_ERROR "QUANTD_LIBTORCH is \"${QUANTD_LIBTORCH}\": no libtorch there. Build with ./dev build, "
                        "or pass -DQUANTD_LIBTORCH=FOLDER as ./dev setup made it.")
  endif()
  # The wheel's own TorchConfig.cmake insists on a CUDA toolkit; only the CPU half is linked here, the CUDA
  # half is opened with dlopen when a GPU is there (workers/engine/device).
  find_library(QUANTD_TORCH_CPU torch_cpu PATHS ${QUANTD_LIBTORCH}/torch/lib REQUIRED NO_DEFAULT_PATH)
  find_library(QUANTD_C10 c10 PATHS ${QUANTD_LIBTORCH}/torch/lib REQUIRED NO_DEFAULT_PATH)
  add_library(libtorch INTERFACE)
  target_include_directories(libtorch SYSTEM INTERFACE ${QUANTD_LIBTORCH}/torch/include
                             ${QUANTD_LIBTORCH}/torch/include/torch/csrc/api/include)
  target_compile_definitions(libtorch INTERFACE AT_PER_OPERATOR_HEADERS)
  target_link_libraries(libtorch INTERFACE ${QUANTD_TORCH_CPU} ${QUANTD_C10} Threads::Threads)
  # libtorch_cpu.so finds libcudart and libcupti through its own RPATH at run time; the linker needs to be told.
  target_link_options(libtorch INTERFACE -Wl,-rpath-link,${QUANTD_LIBTORCH}/nvidia/cu13/lib)
endif()
