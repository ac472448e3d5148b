# What an installation holds and where: the container images, the Debian packages and `cmake --install` share it.
#
#   quantctl       the client, with its shell completions     bin/quantctl
#   quantd         the scheduler                              bin/quantd
#   quantd-worker  worker and engine, libtorch's CPU half     bin/quant-worker, bin/quant-engine, lib/quantd/
#   quantd-cuda    the CUDA kernels, libtorch's CUDA half     lib/quantd/
include(GNUInstallDirs)
set(QUANTD_PRIVATE_LIBDIR lib/quantd)

install(TARGETS quantctl RUNTIME COMPONENT quantctl)
install(TARGETS quantd RUNTIME COMPONENT quantd)
install(TARGETS quant-worker RUNTIME COMPONENT quantd-worker)

foreach(component quantctl quantd quantd-worker)
  install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${component} RENAME copyright
          COMPONENT ${component})
endforeach()
foreach(shell bash zsh fish)
  set(completion_${shell} ${CMAKE_BINARY_DIR}/completions/quantctl.${shell})
  add_custom_command(OUTPUT ${completion_${shell}} DEPENDS quantctl
                     COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/completions
                     COMMAND quantctl completion ${shell} > ${completion_${shell}} VERBATIM)
endforeach()
add_custom_target(completions ALL DEPENDS ${completion_bash} ${completion_zsh} ${completion_fish})
install(FILES ${completion_bash} DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME quantctl
        COMPONENT quantctl)
install(FILES ${completion_zsh} DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions RENAME _quantctl
        COMPONENT quantctl)
install(FILES ${completion_fish} DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d
        RENAME quantctl.fish COMPONENT quantctl)

if(TARGET quant-engine)
  # The wheels' own layout, for their RPATHs lead from torch/lib to nvidia/*/lib.
  set_target_properties(quant-engine PROPERTIES INSTALL_RPATH "$ORIGIN/../${QUANTD_PRIVATE_LIBDIR}/torch/lib")
  install(TARGETS quant-engine RUNTIME COMPONENT quantd-worker)
  foreach(library libtorch_cpu.so libc10.so libgomp.so.1)
    install(PROGRAMS ${QUANTD_LIBTORCH}/torch/lib/${library} DESTINATION ${QUANTD_PRIVATE_LIBDIR}/torch/lib
            COMPONENT quantd-worker)
  endforeach()
  file(GLOB torch_licences ${QUANTD_LIBTORCH}/torch-*.dist-info/licenses/LICENSE
       ${QUANTD_LIBTORCH}/torch-*.dist-info/licenses/NOTICE)
  install(FILES ${torch_licences} DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/quantd-worker/libtorch
          COMPONENT quantd-worker)
  foreach(library libcudart.so.13 libcupti.so.13)
    install(PROGRAMS ${QUANTD_LIBTORCH}/nvidia/cu13/lib/${library}
            DESTINATION ${QUANTD_PRIVATE_LIBDIR}/nvidia/cu13/lib COMPONENT quantd-worker)
  endforeach()
endif()
if(TARGET quantd_cuda)
  install(TARGETS quantd_cuda LIBRARY DESTINATION ${QUANTD_PRIVATE_LIBDIR} COMPONENT quantd-cuda)
  foreach(library libtorch_cuda.so libtorch_cuda_linalg.so libc10_cuda.so libcaffe2_nvrtc.so libtorch_nvshmem.so
          libtorch.so)
    install(PROGRAMS ${QUANTD_LIBTORCH}/torch/lib/${library} DESTINATION ${QUANTD_PRIVATE_LIBDIR}/torch/lib
            COMPONENT quantd-cuda)
  endforeach()
  install(DIRECTORY ${QUANTD_LIBTORCH}/nvidia/ DESTINATION ${QUANTD_PRIVATE_LIBDIR}/nvidia COMPONENT quantd-cuda
          USE_SOURCE_PERMISSIONS FILES_MATCHING PATTERN "lib*.so*" PATTERN "include" EXCLUDE)
endif()
