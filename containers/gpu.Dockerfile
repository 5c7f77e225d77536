# The package in the image that serves, so that plans are built by the TensorRT that will load them.
FROM nvcr.io/nvidia/tritonserver:26.10-py3

# Nothing in the working directory shadows the package, and what wants a home gets the one folder it can write to.
ENV HOME=/tmp PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1

WORKDIR /opt/triton-repository-builder
COPY constraints.txt LICENSE pyproject.toml README.md ./
COPY builder builder
COPY loadtest loadtest
COPY examples examples
# The bindings of exactly the TensorRT that the image carries; its version is in TRT_VERSION, as in 11.1.0.1+cuda13.4.
RUN : "${TRT_VERSION:?the base image does not say which TensorRT it carries}" \
    && python3 -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --constraint constraints.txt \
        "tensorrt==${TRT_VERSION%%+*}" --editable ".[cloud,gpu]"
ENV PATH=/opt/venv/bin:$PATH

USER 1000
WORKDIR /work
ENTRYPOINT ["python", "-m", "builder"]
CMD ["--help"]
