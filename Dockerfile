# quantd's images. Nothing in them runs as root, and none holds a compiler.
#
#   docker build --target scheduler   -t quantd-scheduler .     the scheduler and quantctl
#   docker build --target worker      -t quantd-worker .        worker and engine for CPUs
#   docker build --target worker-cuda -t quantd-worker-cuda .   the same with CUDA, for NVIDIA GPUs
#
# `./dev images` builds them with tags and time stamps that come from the commit. docs/deploy.md says how to run them.
ARG DEBIAN_IMAGE=debian:bookworm-slim
# A program built on one distribution needs its libraries: the CUDA images are Ubuntu on both sides.
ARG CUDA_BUILD_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04
# The runtime image without the toolkit's libraries: libtorch brings the versions that it was tested with.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

# ---- build ---------------------------------------------------------------------------------------------------------
FROM ${DEBIAN_IMAGE} AS build
ARG QUANTD_CACHE=/cache
ENV DEBIAN_FRONTEND=noninteractive
WORKDIR /src
COPY dev ./
COPY deploy/setup deploy/setup
RUN --mount=type=cache,id=quantd,target=/cache ./dev setup
COPY . .
RUN --mount=type=cache,id=quantd,target=/cache ./dev build && deploy/image/collect.sh /out

FROM ${CUDA_BUILD_IMAGE} AS build-cuda
ARG QUANTD_CACHE=/cache
# nvcc is here and a GPU is not: the same switch that a machine with a GPU finds by itself.
ENV DEBIAN_FRONTEND=noninteractive QUANTD_GPU=on
WORKDIR /src
COPY dev ./
COPY deploy/setup deploy/setup
RUN --mount=type=cache,id=quantd-cuda,target=/cache ./dev setup
COPY . .
RUN --mount=type=cache,id=quantd-cuda,target=/cache ./dev build && deploy/image/collect.sh /out

# ---- scheduler -----------------------------------------------------------------------------------------------------
FROM ${DEBIAN_IMAGE} AS scheduler
COPY --from=build /out/scheduler.packages /out/prepare.sh /tmp/image/
RUN /tmp/image/prepare.sh /tmp/image/scheduler.packages
COPY --from=build /out/scheduler/ /
USER quantd
WORKDIR /var/lib/quantd
VOLUME /var/lib/quantd
EXPOSE 7717 7718
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["quantctl", "doctor", "--only", "scheduler"]
ENTRYPOINT ["quantd", "--data", "/var/lib/quantd", "--log-format", "json"]
# Refused until TLS and tokens are set or --insecure is added: see docs/deploy.md.
CMD ["--listen", "0.0.0.0:7717", "--metrics-listen", "0.0.0.0:7718"]

# ---- CPU worker ----------------------------------------------------------------------------------------------------
FROM ${DEBIAN_IMAGE} AS worker
COPY --from=build /out/worker.packages /out/prepare.sh /tmp/image/
RUN /tmp/image/prepare.sh /tmp/image/worker.packages
COPY --from=build /out/worker/ /
USER quantd
WORKDIR /var/lib/quantd
VOLUME /var/lib/quantd
EXPOSE 7719
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["quantctl", "doctor", "--only", "worker"]
ENTRYPOINT ["quant-worker", "--data", "/var/lib/quantd", "--log-format", "json", "--metrics-listen", "0.0.0.0:7719"]
CMD ["--scheduler", "scheduler:7717"]

# ---- CUDA worker ---------------------------------------------------------------------------------------------------
FROM ${CUDA_IMAGE} AS worker-cuda
COPY --from=build-cuda /out/worker.packages /out/prepare.sh /tmp/image/
RUN /tmp/image/prepare.sh /tmp/image/worker.packages
COPY --from=build-cuda /out/worker/ /
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER quantd
WORKDIR /var/lib/quantd
VOLUME /var/lib/quantd
EXPOSE 7719
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["quantctl", "doctor", "--only", "worker"]
ENTRYPOINT ["quant-worker", "--data", "/var/lib/quantd", "--log-format", "json", "--metrics-listen", "0.0.0.0:7719"]
CMD ["--scheduler", "scheduler:7717"]
