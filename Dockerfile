# syntax=docker/dockerfile:1
# One image for the workers, the topic tool and the bootstrap job: the hash-locked base dependencies, no compiler.

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN python -m venv /opt/venv
WORKDIR /src
COPY requirements/base.txt requirements/base.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/python -m pip install --require-hashes --only-binary :all: -r requirements/base.txt
COPY pyproject.toml README.md ./
COPY schemas schemas
COPY streamer streamer
COPY bootstrap bootstrap
RUN /opt/venv/bin/python -m pip install --no-deps --no-build-isolation --no-index .

FROM python:3.13-slim-bookworm
# One BLAS thread: the workers' parallelism is processes, and many small solves only fight over cores.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/factors factors \
    && install -d -o factors -g factors /var/lib/factors /var/lib/factors/state /var/lib/factors/artifacts /data
COPY --from=build /opt/venv /opt/venv
# Sample data for a first look (`docker compose --profile bootstrap up`).
COPY ops/__init__.py /app/ops/__init__.py
COPY ops/data /app/ops/data
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["python", "-m", "streamer", "--help"]
