# The control plane: Airflow's services, the MLflow server and the one-shot jobs. Install `plumbline[control,cluster,ray]`.
#
# Refresh the digest: `docker buildx imagetools inspect python:3.11-slim-bookworm`, line "Digest".
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy VIRTUAL_ENV=/opt/venv
WORKDIR /src
# More than one extra only where the engine `local` runs jobs beside Airflow's worker: "control cluster ray gpu".
ARG EXTRAS="control cluster ray"
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
    install -d -o plumbline -g plumbline /var/lib/plumbline /opt/airflow /opt/airflow/logs
COPY --from=build /opt/venv /opt/venv
COPY dags /app/dags
ARG GIT_SHA=""
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__DAGS_FOLDER=/app/dags \
    PLUMBLINE_STATE_DIR=/var/lib/plumbline PLUMBLINE_PROJECTS_DIR=/app/projects PLUMBLINE_GIT_SHA=${GIT_SHA}
WORKDIR /app
USER 10001:10001
