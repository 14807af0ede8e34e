# What docker-compose.yml takes from others, from Debian's packages: same users, ports, variables and commands.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS postgres
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/lib/postgresql/15/bin:${PATH} PGDATA=/var/lib/postgresql/data
RUN rm -rf ${PGDATA} && install -d -m 700 -o postgres -g postgres ${PGDATA}
COPY tests/compose/postgres.sh /usr/local/bin/postgres.sh
USER postgres
ENTRYPOINT ["sh", "/usr/local/bin/postgres.sh"]
CMD ["postgres"]

FROM ${PYTHON_IMAGE} AS broker
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* && \
    ln -s /usr/bin/redis-server /usr/local/bin/valkey-server && ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli && \
    install -d -o 999 -g 999 /data
USER 999:999

FROM ${PYTHON_IMAGE} AS object-store
RUN --mount=type=secret,id=installer --mount=type=secret,id=certificates \
    set -a && if [ -f /run/secrets/installer ]; then . /run/secrets/installer; fi && \
    python -m venv /opt/venv && /opt/venv/bin/pip install --quiet --no-cache-dir "localbucket==1.2.1" && \
    install -d -o 1000 -g 1000 /data
ENV PATH=/opt/venv/bin:${PATH}
USER 1000:1000
