# syntax=docker/dockerfile:1.7@sha256:a57df69d0ea827fb7266491f2813635de6f17269be881f696fbfdf2d83dda33e
# Two images. `api`: the HTTP service, without torch. `worker`: the worker, the beat and the operator's commands.
#   docker build --target api    -t expunge-api .
#   docker build --target worker -t expunge-worker .                                             torch of PyPI: CUDA
#   docker build --target worker -t expunge-worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu --build-arg TORCH_LOCK=torch-cpu.txt .
# Everything is installed from the lock files, whose hashes pip checks, and every step asks one index alone: with two, a stranger's
# distribution of the same name on the second one could win. Each image holds its bill of materials, /opt/venv/sbom.cdx.json.

ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
# A fixed user ID, so that the storage volume's owner is known outside the container.
RUN groupadd --gid 10001 expunge && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin expunge \
    && install --directory --owner expunge --group expunge --mode 0700 /var/lib/expunge /var/lib/expunge-keys /var/lib/expunge-work

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
WORKDIR /build
COPY ops/containers/locks ops/containers/locks

FROM build AS build-api
RUN pip install --no-deps --require-hashes --index-url https://pypi.org/simple --requirement ops/containers/locks/api.txt && pip check
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index . \
    && python ops/containers/sbom ops/containers/locks/api.txt > /opt/venv/sbom.cdx.json

FROM build AS build-worker
ARG TORCH_INDEX=https://pypi.org/simple
ARG TORCH_LOCK=torch-cuda.txt
RUN pip install --no-deps --require-hashes --index-url "${TORCH_INDEX}" --requirement "ops/containers/locks/${TORCH_LOCK}"
RUN pip install --no-deps --require-hashes --index-url https://pypi.org/simple --requirement ops/containers/locks/worker.txt && pip check
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index . \
    && python ops/containers/sbom ops/containers/locks/worker.txt "ops/containers/locks/${TORCH_LOCK}" > /opt/venv/sbom.cdx.json

FROM base AS api
COPY --from=build-api /opt/venv /opt/venv
COPY alembic.ini /srv/expunge/alembic.ini
COPY migrations /srv/expunge/migrations
COPY --chmod=0755 ops/containers/entrypoint /usr/local/bin/entrypoint
WORKDIR /srv/expunge
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["entrypoint"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["uvicorn", "service.app:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "20", "--no-server-header", "--http", "service.http.connections:Connection"]

FROM base AS worker
COPY --from=build-worker /opt/venv /opt/venv
COPY --chmod=0755 ops/containers/entrypoint /usr/local/bin/entrypoint
# Not in the storage's volume: `expunge train` writes to ./weights, and `expunge purge` deletes from the storage what no version needs.
WORKDIR /var/lib/expunge-work
USER 10001:10001
# Torch's threads sleep while they wait, so that two processes on few cores do not slow each other down.
ENV EXPUNGE_STORAGE=/var/lib/expunge/weights EXPUNGE_SIGNING_KEYS=/var/lib/expunge-keys EXPUNGE_READY_FILE=/tmp/ready OMP_WAIT_POLICY=PASSIVE HOME=/tmp MPLCONFIGDIR=/tmp
ENTRYPOINT ["entrypoint"]
# Ready means: connected to the broker. Whether a job makes progress is in the ledger and the metrics.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["test", "-e", "/tmp/ready"]
CMD ["celery", "-A", "worker.app", "worker", "--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
