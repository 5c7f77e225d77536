# The package on a slim Python image: the embedded server, the load test, and publishing without a GPU.
FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# Files in the working directory must not hide the package. HOME is the one folder that can be written to.
ENV HOME=/tmp PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1

WORKDIR /opt/triton-repository-builder
COPY constraints.txt LICENSE pyproject.toml README.md ./
COPY builder builder
COPY loadtest loadtest
COPY examples examples
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --constraint constraints.txt --editable ".[cloud]"
ENV PATH=/opt/venv/bin:$PATH

RUN useradd --uid 1000 --no-create-home builder
USER 1000
WORKDIR /work
ENTRYPOINT ["python", "-m", "builder"]
CMD ["--help"]
