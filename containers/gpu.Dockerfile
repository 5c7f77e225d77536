# The package in the image that serves, so that plans are built by the same TensorRT that loads them.
FROM nvcr.io/nvidia/tritonserver:26.10-py3

# Files in the working directory must not hide the package. HOME is the one folder that can be written to.
ENV HOME=/tmp PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1

WORKDIR /opt/triton-repository-builder
COPY constraints.txt LICENSE pyproject.toml README.md ./
COPY builder builder
COPY loadtest loadtest
COPY examples examples
# The Python bindings of the TensorRT in the image. Its version is in TRT_VERSION, for example 11.1.0.1+cuda13.4.
RUN : "${TRT_VERSION:?the base image does not set TRT_VERSION, the version of its TensorRT}" \
    && python3 -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --constraint constraints.txt \
        "tensorrt==${TRT_VERSION%%+*}" --editable ".[cloud,gpu]"
ENV PATH=/opt/venv/bin:$PATH

USER 1000
WORKDIR /work
ENTRYPOINT ["python", "-m", "builder"]
CMD ["--help"]
