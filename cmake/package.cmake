# Debian packages by CPack (`./dev package`): quantctl, quantd, quantd-worker. The programs are the components of
# install.cmake; what only a package has (units, configuration) is a component of its own, so that images do without.
# Services are not started by installing: `systemctl enable --now quantd`.
foreach(package quantd quantd-worker)
  install(FILES ${CMAKE_SOURCE_DIR}/docs/deploy.md DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package}
          COMPONENT ${package}-service)
endforeach()
install(FILES deploy/systemd/quantd.service DESTINATION lib/systemd/system COMPONENT quantd-service)
install(FILES deploy/systemd/quantd.yaml DESTINATION /etc/quantd COMPONENT quantd-service)
install(FILES deploy/systemd/quant-worker.service deploy/systemd/quant-worker@.service
        DESTINATION lib/systemd/system COMPONENT quantd-worker-service)
install(FILES deploy/systemd/quant-worker.default DESTINATION /etc/default RENAME quant-worker
        COMPONENT quantd-worker-service)

# Whoever packs has built the programs: not the tests for it, too.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME quantd)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "quantd maintainers <maintainers@quantd.invalid>")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
    WORLD_READ WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL quantctl quantd quantd-service)
if(TARGET quant-engine)
  list(APPEND CPACK_COMPONENTS_ALL quantd-worker quantd-worker-service)
endif()
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${QUANTD_LIBTORCH}/torch/lib ${QUANTD_LIBTORCH}/nvidia/cu13/lib)

set(CPACK_COMPONENT_QUANTCTL_DESCRIPTION "quantctl: quantize, evaluate and compare language models on quantd workers
 The command line: submits work to a quantd scheduler, watches it and brings the results home.")
set(CPACK_COMPONENT_QUANTD_DESCRIPTION "quantd: scheduler of quantization jobs
 Durable queue, sweeps, artifact store and metrics for quantd workers.")
set(CPACK_COMPONENT_QUANTD-WORKER_DESCRIPTION "quantd worker: quantizes and evaluates language models
 Worker and engine for CPUs, with libtorch.")
foreach(package QUANTCTL QUANTD QUANTD-WORKER)
  string(TOLOWER ${package} name)
  set(CPACK_DEBIAN_${package}_PACKAGE_NAME ${name})
endforeach()
set(CPACK_DEBIAN_QUANTCTL_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_QUANTD_PACKAGE_RECOMMENDS quantctl)
set(CPACK_DEBIAN_QUANTD-WORKER_PACKAGE_DEPENDS ca-certificates)
set(CPACK_DEBIAN_QUANTD-WORKER_PACKAGE_RECOMMENDS quantctl)
foreach(package quantd quantd-worker)
  string(TOUPPER ${package} upper)
  set(CPACK_DEBIAN_${upper}_PACKAGE_CONTROL_EXTRA
      ${CMAKE_SOURCE_DIR}/deploy/debian/${package}/postinst ${CMAKE_SOURCE_DIR}/deploy/debian/${package}/prerm
      ${CMAKE_SOURCE_DIR}/deploy/debian/${package}/conffiles)
endforeach()

include(CPack)
foreach(component quantctl quantd quantd-worker)
  cpack_add_component_group(${component})
  cpack_add_component(${component} GROUP ${component})
endforeach()
cpack_add_component(quantd-service GROUP quantd)
cpack_add_component(quantd-worker-service GROUP quantd-worker)
