"""Publish a PyTorch module: export it, proven against the module, and publish the file."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from builder.exporting.export import ExportOptions, InputSpec, export
from builder.progress import Report
from builder.publishing import Publication, PublishOptions, publish


def publish_module(
    factory: str,
    root: Path,
    *,
    inputs: Sequence[InputSpec],
    exporter: str | None = None,
    opset: int | None = None,
    name: str | None = None,
    options: PublishOptions,
    report: Report = lambda *_: None,
) -> Publication:
    """Export what `factory` makes and publish it into the model repository at `root`, called after the factory.

    The axes that are to be dynamic, and the batch that is not axis 0, are the export's business: the file that is
    published has them already.

    Raises:
        BuilderError: As `export` and `publish` do. Nothing on disk changed, whatever the error.
    """
    stays_static = options.is_static or options.is_per_sample
    asked = ExportOptions(
        inputs=tuple(inputs),
        batch_axes={} if stays_static else {n: axis for n, axis in options.batch_axes.items() if axis is not None},
        dynamic=options.dynamic,
        is_static=stays_static,
        exporter=exporter,
        opset=opset,
        samples=None if options.is_per_sample else options.samples,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{factory.rpartition(':')[2]}.onnx")
        export(factory, path, options=asked, report=report)
        left = options if stays_static else replace(options, batch_axes={}, dynamic={})
        return publish(path, root, name=name, options=left, report=report)
