"""Build Triton model repositories from static-batch ONNX models, and prove them."""

__version__ = "0.1.0"
