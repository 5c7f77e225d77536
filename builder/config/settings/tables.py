"""The maps of a config that hold plain names and values: parameters of the backend, and labels of metrics."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from builder.config.options import PROVENANCE_PREFIX, THREADS, ConfigOptions
from builder.config.parameters import KNOWN
from builder.errors import RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def write(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write the parameters and the labels of metrics; an empty value removes an entry.

    Raises:
        RepositoryError: A parameter belongs to this package, or an entry to remove is not there.
    """
    if options.intra_op_thread_count is not None:
        if THREADS in options.parameters:
            what = f"--intra-op-thread-count and --parameter {THREADS} set the same"
            raise RepositoryError(where, what, "leave one of them out")
        config.parameters[THREADS].string_value = str(options.intra_op_thread_count)
    for key, value in options.parameters.items():
        if key.startswith(PROVENANCE_PREFIX):
            what = f"parameters that start with {PROVENANCE_PREFIX} say where a version came from, so publish sets them"
            raise RepositoryError(where, what, f"leave out --parameter {key}, or use another name")
        if value:
            config.parameters[key].string_value = value
        else:
            _refuse_absent(config.parameters, "--parameter", key, where)
            del config.parameters[key]
    for key, value in options.metric_labels.items():
        if value:
            config.metric_tags[key] = value
        else:
            _refuse_absent(config.metric_tags, "--metric-label", key, where)
            del config.metric_tags[key]
    if options.response_cache is not None:
        config.response_cache.enable = options.response_cache
        if not options.response_cache:
            config.ClearField("response_cache")


def _refuse_absent(entries: Mapping[str, object], option: str, key: str, where: object) -> None:
    if key not in entries:
        there = ", ".join(map(repr, sorted(key for key in entries if not key.startswith(PROVENANCE_PREFIX))))
        fix = f"name one of those that are there: {there}" if there else f"leave out {option} {key}="
        raise RepositoryError(where, f"there is no {key!r} that {option} {key}= could remove", fix)


def notes(config: "ModelConfig", options: ConfigOptions) -> Iterator[str]:
    """Yield what an option needs from the server, or why it may have no effect; one sentence each."""
    if options.response_cache:
        yield "Triton caches answers only if it was started with --cache-config, such as local,size=104857600"
    if options.rate_limiter_resources or options.rate_limiter_priority is not None:
        yield "Triton limits rates only if it was started with --rate-limit=execution_count"
    if config.backend != "onnxruntime":
        return
    for key in options.parameters:
        if key not in KNOWN and (close := get_close_matches(key, KNOWN, 1, 0.75)):
            yield f"the ONNX Runtime backend reads no parameter {key!r}; did you mean {close[0]}?"
