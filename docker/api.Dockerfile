# The HTTP service: no torch, no compiler. One stage makes the wheel, the other installs it.
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
RUN useradd --uid 10001 --create-home --home-dir /var/lib/gkd gkd
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=from=build,source=/wheels,target=/wheels \
    --mount=source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt "gkd[s3] @ file://$(echo /wheels/gkd-*.whl)"
ENV GKD_HOME=/var/lib/gkd \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
CMD ["gkd", "api"]
