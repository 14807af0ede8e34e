# A training host: Ray's head and workers. Install `plumbline[gpu,ray]`, without Airflow.
#
# torch brings its CUDA libraries from PyPI, so that a host needs only the NVIDIA driver and its container toolkit. The
# same image runs on a host without a GPU.
# Refresh the digest: `docker buildx imagetools inspect python:3.11-slim-bookworm`, line "Digest".
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy VIRTUAL_ENV=/opt/venv
WORKDIR /src
ARG EXTRAS="gpu ray"
# The secrets are optional: settings of pip and uv as KEY=VALUE lines, and certificates, for a host behind a mirror.
RUN --mount=type=secret,id=installer --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache/uv \
    set -a && if [ -f /run/secrets/installer ]; then . /run/secrets/installer; fi && \
    python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --quiet "uv>=0.9" && \
    /opt/uv/bin/uv venv --python "$(command -v python)" /opt/venv
COPY pyproject.toml requirements.lock ./
# What others publish is a layer of its own, which a change of our code does not touch.
RUN --mount=type=secret,id=installer --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache/uv \
    set -a && if [ -f /run/secrets/installer ]; then . /run/secrets/installer; fi && \
    /opt/uv/bin/uv pip install -r pyproject.toml $(printf -- '--extra %s ' ${EXTRAS}) --constraint requirements.lock
COPY README.md LICENSE ./
COPY alignment alignment
COPY pipelines pipelines
RUN --mount=type=secret,id=installer --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache/uv \
    set -a && if [ -f /run/secrets/installer ]; then . /run/secrets/installer; fi && \
    /opt/uv/bin/uv pip install --no-deps .

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 plumbline && useradd --uid 10001 --gid 10001 --create-home plumbline && \
    install -d -o plumbline -g plumbline /var/lib/plumbline
COPY --from=build /opt/venv /opt/venv
ARG GIT_SHA=""
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    PLUMBLINE_STATE_DIR=/var/lib/plumbline PLUMBLINE_GIT_SHA=${GIT_SHA} \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 10001:10001
