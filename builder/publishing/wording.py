"""Write options as on the command line, and say what they mean for the model."""

import shlex
from collections.abc import Iterator

from builder.model import Model
from builder.publishing.choices import compared_with
from builder.publishing.options import PublishOptions


def in_words(way: PublishOptions, asked: PublishOptions, model: Model) -> str:
    """Return `with OPTIONS and without OPTIONS (what they mean)`.

    Args:
        way: The options to describe.
        asked: What the caller asked for. Options that stay are not repeated, except the axes of the batch.
        model: The model as it was loaded.
    """
    given, left_out = list(_given(way, asked, model)), list(_left_out(way, asked))
    parts = []
    if given:
        parts.append(f"with {' '.join(given)}")
    if left_out:
        parts.append(f"without {' and '.join(left_out)}")
    meanings = ", ".join(
        [*_meanings_of_mode(way), *_meanings_of_inputs(way, asked, model), *_meanings_of_outputs(way, asked, model)]
    )
    return " and ".join(parts) + (f" ({meanings})" if meanings else "")


def _given(way: PublishOptions, asked: PublishOptions, model: Model) -> Iterator[str]:
    if way.is_static:
        yield "--static"
    if way.is_per_sample:
        yield "--per-sample"
    for name, axis in way.batch_axes.items():
        where = "none" if axis is None else axis
        yield f"--batch-axis {shlex.quote(f'{name}={where}')}"
    if way.outputs and not asked.outputs:
        yield f"--output {shlex.quote(','.join(way.outputs))}"
    for name in _fixed(way, asked):
        yield f"--constant {shlex.quote(f'{name}={_value(way.constants[name], name, model)}')}"


def _value(value: object, name: str, model: Model) -> str:
    """Return the value of a constant if the graph knows it, or else what to write there."""
    shape = next(spec.shape for spec in model.inputs if spec.name == name)
    if any(dim != 1 for dim in shape):
        return "FILE.npy"
    return f"{value:.17g}" if isinstance(value, float) and value == compared_with(model, name) else "VALUE"


def _left_out(way: PublishOptions, asked: PublishOptions) -> Iterator[str]:
    """Yield the options that were given and have to be left out."""
    config = asked.config
    given = {
        "--static": asked.is_static and not way.is_static,
        "--per-sample": asked.is_per_sample and not way.is_per_sample,
        "--dynamic": asked.dynamic and not way.dynamic,
        "--batch-axis": asked.batch_axes and not way.batch_axes,
        "--max-batch-size": config.max_batch_size and way.is_static,
        "--preferred-batch-size": config.preferred_batch_sizes and way.is_static,
    }
    return (option for option, is_left_out in given.items() if is_left_out)


def _meanings_of_mode(way: PublishOptions) -> Iterator[str]:
    if way.is_static:
        yield "as it is, without batching"
    if way.is_per_sample:
        yield "one sample after the other, so batching makes it no faster"


def _meanings_of_inputs(way: PublishOptions, asked: PublishOptions, model: Model) -> Iterator[str]:
    names = [spec.name for spec in model.inputs if spec.name not in way.constants]
    by_axis: dict[int | None, list[str]] = {}
    for name in (name for name in names if name in way.batch_axes):
        by_axis.setdefault(way.batch_axes[name], []).append(name)
    for axis, those in by_axis.items():
        listed = ", ".join(those)
        if axis is None:
            yield f"one sample is the whole of {listed}" if those == names else f"each sample brings its own {listed}"
        elif axis == 0:
            yield f"axis 0 of {listed} has several rows of each sample"
        else:
            yield f"axis {axis} of {listed} is the batch"
    if fixed := _fixed(way, asked):
        yield f"the same {', '.join(fixed)} in all requests"


def _meanings_of_outputs(way: PublishOptions, asked: PublishOptions, model: Model) -> Iterator[str]:
    if way.outputs and not asked.outputs:
        yield f"without {', '.join(spec.name for spec in model.outputs if spec.name not in way.outputs)}"


def _fixed(way: PublishOptions, asked: PublishOptions) -> list[str]:
    """Return the inputs that become constants, without those that the caller made constants."""
    return [name for name in way.constants if name not in asked.constants]
