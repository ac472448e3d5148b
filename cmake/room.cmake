# room(NAME DEPS ...): one library from the folder's *.cc, one test binary from its *_test.cc, one benchmark
# binary from its *_bench.cc. Adding a file touches no build file. main.cc is left out: qd_program() takes it.
#
#   DEPS        libraries that this room's users see too
#   TEST_DEPS   libraries that only the tests link
#   TEST_FILTER which tests are found one by one; qd_grouped_test() runs the others
#   EXCLUDE     file names that another target takes
#   PCH         the precompiled header that the room and its tests use: aten (libtorch) or api (gRPC and the messages),
#               commands or flags for those with the flags' library besides
#   GLUE        nothing here is hot: -O1, a quarter of the compile time less. Tests are compiled so too
#   SUBDIRS     folders below this one whose files belong to the room too

add_library(quantd_flags INTERFACE)
target_compile_options(quantd_flags INTERFACE -Wall -Wextra -Wno-unused-parameter -Werror=return-type
                                              -fpch-preprocess)
# GCC asks designated initializers for the fields that they leave out on purpose, and sees overflows in its own std::string.
target_compile_options(quantd_flags INTERFACE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-missing-field-initializers;-Wno-array-bounds;-Wno-restrict;-Wno-stringop-overflow;-Wno-stringop-overread>)
target_include_directories(quantd_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_compile_definitions(quantd_flags INTERFACE QUANTD_VERSION="${PROJECT_VERSION}")
if(QUANTD_SANITIZE)
  target_compile_options(quantd_flags INTERFACE -fsanitize=${QUANTD_SANITIZE} -fno-sanitize-recover=all -g
                                                -fno-omit-frame-pointer)
  target_link_options(quantd_flags INTERFACE -fsanitize=${QUANTD_SANITIZE})
endif()

# precompiled(NAME HEADER DEPS ...): the header, compiled once for every room that says PCH NAME. It is named relative to the
# repository's root, so that ccache finds it again in another clone. A precompiled header serves only code of its own
# kind: executables are compiled like libraries, with -fPIC.
function(precompiled name header)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/pch_${name}.cc CONTENT "// Carries the precompiled header.\n")
  add_library(quantd_pch_${name} OBJECT ${CMAKE_BINARY_DIR}/pch_${name}.cc)
  target_link_libraries(quantd_pch_${name} PRIVATE quantd_flags ${ARG_DEPS})
  target_precompile_headers(quantd_pch_${name} PRIVATE <${header}>)
endfunction()
function(use_precompiled target name)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC)
  target_precompile_headers(${target} REUSE_FROM quantd_pch_${name})
endfunction()

function(room name)
  cmake_parse_arguments(ARG "GLUE" "PCH;TEST_FILTER" "DEPS;TEST_DEPS;EXCLUDE;SUBDIRS" ${ARGN})
  set(sources)
  foreach(dir . ${ARG_SUBDIRS})
    file(GLOB found CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${dir}/*.cc)
    list(APPEND sources ${found})
  endforeach()
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  foreach(excluded ${ARG_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX "/${excluded}$")
  endforeach()
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(benches ${sources})
  list(FILTER benches INCLUDE REGEX "_bench\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_(test|bench)\\.cc$")

  string(REPLACE "/" "_" target "quantd_${name}")
  if(sources)
    add_library(${target} STATIC ${sources})
    target_link_libraries(${target} PUBLIC quantd_flags ${ARG_DEPS})
    if(ARG_GLUE)
      target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
    endif()
    if(ARG_PCH)
      use_precompiled(${target} ${ARG_PCH})
    endif()
  else()
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE quantd_flags ${ARG_DEPS})
  endif()
  if(QUANTD_TESTS AND tests)
    add_executable(${target}_test ${tests})
    target_link_libraries(${target}_test PRIVATE ${target} ${ARG_TEST_DEPS} GTest::gmock_main)
    target_compile_options(${target}_test PRIVATE $<$<CONFIG:Release>:-O1>)
    target_compile_definitions(${target}_test PRIVATE QUANTD_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                                      QUANTD_BINARY_DIR="${CMAKE_BINARY_DIR}")
    if(ARG_PCH)
      use_precompiled(${target}_test ${ARG_PCH})
    endif()
    gtest_discover_tests(${target}_test TEST_PREFIX "${name}/" TEST_FILTER "${ARG_TEST_FILTER}"
                         DISCOVERY_TIMEOUT 120
                         PROPERTIES LABELS "${name}" TIMEOUT 300)
  endif()
  if(QUANTD_BENCHMARKS AND benches)
    add_executable(${target}_bench ${benches})
    target_link_libraries(${target}_bench PRIVATE ${target} benchmark::benchmark_main)
  endif()
endfunction()

# qd_program(NAME [PCH NAME] DEPS ...): an executable from this folder's main.cc.
function(qd_program name)
  cmake_parse_arguments(ARG "" "PCH" "DEPS" ${ARGN})
  add_executable(${name} main.cc)
  target_link_libraries(${name} PRIVATE quantd_flags ${ARG_DEPS})
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  if(ARG_PCH)
    use_precompiled(${name} ${ARG_PCH})
  endif()
endfunction()

# qd_grouped_test(ROOM NAME FILTER): tests of a room that run in one process, for they share what is slow to start.
function(qd_grouped_test room name filter)
  if(QUANTD_TESTS)
    add_test(NAME ${room}/${name} COMMAND quantd_${room}_test --gtest_filter=${filter})
    set_tests_properties(${room}/${name} PROPERTIES LABELS "${room}" TIMEOUT 600)
  endif()
endfunction()
