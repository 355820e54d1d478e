# What runs jobs, on GPUs or without. The torch wheels bring CUDA with them; the driver comes from the machine, through
# NVIDIA's container toolkit.
#
# A company's own package index: docker build --secret id=pip,src=$HOME/.config/pip/pip.conf ...
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY api api
COPY client client
COPY gkd_core gkd_core
COPY jobs jobs
COPY worker worker
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
# For jobs with `train.compile`: what torch generates has to be compiled here.
# hadolint ignore=DL3008  # Debian keeps one version of a package at a time, so a pinned one is soon not to be had
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --home-dir /var/lib/gkd gkd
# The large part in a layer of its own: a change of GKD does not fetch torch again.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt torch torchvision
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=from=build,source=/wheels,target=/wheels \
    --mount=source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt \
        "gkd[engine,timm,export,s3] @ file://$(echo /wheels/gkd-*.whl)"
# Caches lie in the home, on the volume: /tmp is small, and runs nothing.
ENV GKD_HOME=/var/lib/gkd \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/gkd/.cache/torchinductor \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001
CMD ["gkd", "worker"]
