# syntax=docker/dockerfile:1
# Latido: one image, every program. `docker build -t latido:0.1.0 .`, then `docker run latido:0.1.0 exporter --help`.
# A second for load tests, which need Locust and matplotlib: `docker build --target loadtest -t latido-loadtest:0.1.0 .`
# Where no registry is reachable: --build-arg BASE=your/python:3.11 (any image with Debian's glibc and Python 3.11).
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
# Every package at one version with its hash, so what is in the image is what is in this file. Wheels only: nothing is
# compiled here, and no compiler is needed.
COPY packaging/container/requirements.txt packaging/container/
RUN python3 -m venv /opt/latido \
 && /opt/latido/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: --require-hashes \
      --requirement packaging/container/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY kmod/LICENSE kmod/
COPY latido latido
COPY exporter exporter
COPY ingest ingest
COPY bridge_ws bridge_ws
COPY loadtest loadtest
# Without an index and without isolation: the build back end is one of the pinned packages, and goes again afterwards.
RUN /opt/latido/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --no-deps --no-build-isolation . \
 && /opt/latido/bin/pip uninstall --yes --quiet hatchling setuptools pip \
 && /opt/latido/bin/python3 -m compileall -q /opt/latido

# The load test's libraries and none of the programs': an environment of its own, with the same Latido in it.
FROM ${BASE} AS build-loadtest
WORKDIR /src
COPY packaging/container/requirements-loadtest.txt packaging/container/
RUN python3 -m venv /opt/latido \
 && /opt/latido/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: --require-hashes \
      --requirement packaging/container/requirements-loadtest.txt
COPY --from=build /src /src
RUN /opt/latido/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --no-deps --no-build-isolation . \
 && /opt/latido/bin/pip uninstall --yes --quiet hatchling setuptools pip \
 && /opt/latido/bin/python3 -m compileall -q /opt/latido

# What both images have in common: the user, the folder that is written, how they start and end.
FROM ${BASE} AS common
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="latido" \
      org.opencontainers.image.description="What every process on every Linux host is doing now, and what it did at 03:12" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-only"
RUN groupadd --gid 10001 latido \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/latido --shell /usr/sbin/nologin latido \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/latido
ENV PATH=/opt/latido/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# The exporter's spool. Everything else is read-only: --read-only --tmpfs /tmp works for every program.
WORKDIR /var/lib/latido
VOLUME /var/lib/latido
# SIGTERM drains: pushes that came in are answered, the spool is closed.
STOPSIGNAL SIGTERM
ENTRYPOINT ["latido"]
CMD ["--help"]

FROM common AS loadtest
LABEL org.opencontainers.image.title="latido-loadtest" \
      org.opencontainers.image.description="Load tests of Latido's ingest APIs: latido loadtest run"
COPY --from=build-loadtest /opt/latido /opt/latido
# matplotlib writes a list of fonts there: /tmp is what may be written.
ENV MPLCONFIGDIR=/tmp/matplotlib

# The last one is what is built where no target is named.
FROM common
COPY --from=build /opt/latido /opt/latido
# The kernel modules' sources, for who builds them for a node's kernel (kubernetes/components/kmod).
COPY kmod/Kbuild kmod/LICENSE kmod/*.c kmod/*.h /usr/src/latido/
COPY kmod/probes /usr/src/latido/probes
# 10110 exporter, 10111 ingest raw, 10112 ingest orm, 10113 bridge
EXPOSE 10110 10111 10112 10113
