"""Fields that follow from the proof or that another option sets: `--set` and `--unset` refuse them."""

from collections.abc import Mapping, Sequence

from builder.config.options import PROVENANCE_PREFIX
from builder.config.settings.paths import PathError, Step

_FILE = "it follows from the file that was proven", "choose between an ONNX file and a TensorRT plan with --format"
_VERSIONS = (
    "publish and rollback decide which versions are served",
    "serve another version with switch --to, and others beside it with --serve-also",
)
_TENSORS = (
    "the inputs and outputs are those that were proven",
    "set a single field of one of them, such as output[0].reshape.shape, or remove an output with --unset 'output[0]'",
)
_NAMES = "clients rely on these names", "rename inputs and outputs with --input-names, --output-names or --rename"
_TYPES = "the type is that of the model, which was proven", "change the type in the model, and publish that"
_RAGGED = "it gives the model other inputs than those that were proven", "leave this out"

_REFUSED: Mapping[tuple[str, ...], tuple[str, str]] = {
    ("name",): ("it is the name of the model's directory", "use --name"),
    ("backend",): _FILE,
    ("platform",): _FILE,
    ("runtime",): _FILE,
    ("default_model_filename",): _FILE,
    ("cc_model_filenames",): _FILE,
    ("version_policy",): _VERSIONS,
    ("max_batch_size",): ("a larger batch has to be proven", "use --max-batch-size"),
    ("input", "name"): _NAMES,
    ("output", "name"): _NAMES,
    ("input", "data_type"): _TYPES,
    ("output", "data_type"): _TYPES,
    ("input", "optional"): ("the model needs all its inputs", "leave this out, or use --constant for the input"),
    ("input", "allow_ragged_batch"): _RAGGED,
    ("batch_input",): _RAGGED,
    ("batch_output",): _RAGGED,
    ("output", "label_filename"): ("the file has to be in the model's folder", "use --labels OUTPUT=FILE"),
    ("ensemble_scheduling",): ("this model is not an ensemble", "write the config of an ensemble by hand"),
    ("model_transaction_policy", "decoupled"): ("this model gives one answer to each request", "leave this out"),
}


def refuse_owned(steps: Sequence[Step], *, is_removal: bool) -> None:
    """Refuse a path to a field that is not the caller's.

    Raises:
        PathError: Another option sets it, or none can.
    """
    names = tuple(step.name for step in steps)
    for owned, (what, fix) in _REFUSED.items():
        if names[: len(owned)] == owned:
            raise PathError(f"{steps[-1].text} cannot be set like this: {what}", fix)
    if names in (("input",), ("output",)) and not (is_removal and steps[0].key is not None):
        raise PathError(f"{steps[-1].text} cannot be set like this: {_TENSORS[0]}", _TENSORS[1])
    if names[:1] == ("parameters",):
        _refuse_own_parameters(steps)


def _refuse_own_parameters(steps: Sequence[Step]) -> None:
    key = steps[0].key
    if key is None and len(steps) == 1:
        what = f"some parameters, those that start with {PROVENANCE_PREFIX}, are set by publish"
        raise PathError(what, "set or remove single ones with --parameter NAME=VALUE and --parameter NAME=")
    if key is not None and key.startswith(PROVENANCE_PREFIX):
        what = f"parameters that start with {PROVENANCE_PREFIX} say where a version came from, so publish sets them"
        raise PathError(what, "use another name")
