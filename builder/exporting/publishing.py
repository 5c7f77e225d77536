"""Publish a PyTorch module: export it, prove the export against the module, and publish the file."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from builder.exporting.export import export
from builder.exporting.options import ExportedModel, ExportOptions, InputSpec, tensor_name
from builder.exporting.sources import Source
from builder.exporting.temporary import Temporary
from builder.progress import Report, silent
from builder.publishing import Origin, Publication, PublishOptions, publish
from builder.record import Download
from builder.samples import check_labels


def publish_module(
    source: str,
    root: Path,
    *,
    inputs: Sequence[InputSpec],
    exporter: str | None = None,
    opset: int | None = None,
    is_verbose: bool = False,
    task: str | None = None,
    is_download: bool = False,
    revision: str | None = None,
    name: str | None = None,
    download: Download | None = None,
    options: PublishOptions,
    report: Report = silent,
) -> Publication:
    """Export the module of `source` and publish it into the repository at `root`, named after the factory or file.

    The export already makes the axes dynamic and moves the batch to axis 0, so that publishing its file does not have
    to do either.

    Raises:
        BuilderError: `export` or `publish` fails. Nothing on disk has changed then.
    """
    if options.samples is not None and options.accuracy.is_given:  # before an export that takes minutes
        options.accuracy.check()
        check_labels(options.samples, {spec.name for spec in inputs})
    stays_static = options.is_static or options.is_per_sample
    asked = ExportOptions(
        inputs=tuple(inputs),
        batch_axes={} if stays_static else options.batch_axes,
        dynamic=options.dynamic,
        is_static=stays_static,
        exporter=exporter,
        opset=opset,
        sizes=options.sizes,
        samples=None if options.is_per_sample else options.samples,
        constants=options.constants,
        outputs=options.outputs,
        is_verbose=is_verbose,
        task=task,
        is_download=is_download,
        revision=revision,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{Source.of(source).name}.onnx")
        exported = export(source, path, options=asked, limits=options.limits, report=report)
        axes = {tensor_name(name): axis for name, axis in options.batch_axes.items()} if stays_static else {}
        sizes = exported.sizes if options.samples is None else {}
        remaining = replace(options, batch_axes=axes, dynamic={}, constants={}, outputs=(), sizes=sizes)
        labels = {}
        if exported.labels:
            labels = {"logits": _write_labels(exported, Path(folder), report)}
        temporary = Temporary(Path(folder), source)
        with temporary.named():
            return publish(
                path,
                root,
                name=name,
                options=remaining,
                report=temporary.report(report),
                origin=Origin(is_module=True, download=download, class_labels=labels),
            )


def _write_labels(exported: ExportedModel, folder: Path, report: Report) -> Path:
    """Write the names of the classes as Triton reads them, one on a line."""
    path = folder / "labels.txt"
    path.write_text("".join(f"{label}\n" for label in exported.labels), encoding="utf-8")
    report("labels", f"logits: {', '.join(exported.labels[:5])}{' …' if len(exported.labels) > 5 else ''}")
    return path
