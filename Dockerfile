# One image for each kind of machine: docker build --target cpu|cuda|tpu -t hypereyes:TARGET .
FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /hypereyes
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY hypereyes_jax ./hypereyes_jax

FROM base AS cpu
RUN pip install .
ENTRYPOINT ["hypereyes"]
CMD ["--help"]

# CUDA's libraries come with the wheels; the host's driver and the NVIDIA container toolkit do the rest.
FROM base AS cuda
RUN pip install '.[cuda13]'
ENTRYPOINT ["hypereyes"]
CMD ["--help"]

FROM base AS tpu
RUN pip install '.[tpu,remote]'
ENTRYPOINT ["hypereyes"]
CMD ["--help"]
