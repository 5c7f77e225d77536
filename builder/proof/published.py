"""Prove a published version again, against the reference stored with it."""

from collections.abc import Callable
from pathlib import Path

from builder.errors import HostError, ModelError, RepositoryError, VerificationError
from builder.files import reason
from builder.model import weights_of
from builder.proof.comparison import Tolerance
from builder.proof.interface import check_interface
from builder.proof.prover import Prover, batch_sizes
from builder.proof.results import make_proof
from builder.proof.session import onnxruntime_warnings, open_rewritten, refuse_stale_shapes
from builder.record import MANIFEST_FILE, Manifest, Proof
from builder.tensors import Arrays

_RESTORE = "restore the file, or publish the model again"
_REPLACE = "publish the model again, or serve another version with `python -m builder rollback`"


def verify_published(
    version_dir: Path,
    manifest: Manifest,
    reference: Arrays,
    *,
    failure_dir: Path = Path(),
    run: Callable[[Arrays], Arrays] | None = None,
    file: str | None = None,
) -> Proof:
    """Run the published bytes again, and compare the answers with the reference.

    Args:
        version_dir: The version's directory.
        manifest: Its manifest.
        reference: Its samples and answers.
        failure_dir: The folder for the inputs and answers of a batch that differs.
        run: Runs the model where ONNX Runtime cannot, such as a TensorRT plan.
        file: The file that it runs, if that is not the one that config.pbtxt serves.

    Raises:
        RepositoryError: A file is missing, the reference belongs to another version, or the model takes weights from
            files that are not this version's.
        VerificationError: The files changed after they were published, Triton would refuse to load them with the
            inputs and outputs of the manifest, or an answer differs.
        HostError: No processor of this machine can run them.
    """
    model = version_dir / (file or manifest.model.file)
    check_files(version_dir, manifest)
    _check_reference(version_dir, manifest, reference)
    precision = manifest.options.get("precision")
    if run is None and precision == "bf16":
        what = "its files are the published ones, but ONNX Runtime cannot run bf16 on a CPU to compare the answers"
        raise HostError(model, what, "run `python -m builder deploy`, which compares them on a Triton with a GPU")
    tolerances = {name: Tolerance(proof.rtol, proof.atol) for name, proof in manifest.proof.outputs.items()}
    sizes = _batch_sizes(manifest)
    with onnxruntime_warnings() as warnings:
        if run is None:
            _check_weights(version_dir, manifest)
            quantization = manifest.quantization
            session = open_rewritten(
                model,
                where=model,
                keep_layout=precision == "fp16",
                as_written=quantization is not None and quantization.runtime == "tensorrt",
                fix=_REPLACE,
            )
            has_batch = manifest.max_batch_size > 0
            check_interface(model, session, manifest.inputs, manifest.outputs, has_batch=has_batch)
            run = session.run
        prover = Prover(
            where=model,
            run=run,
            reference=reference,
            tolerances=tolerances,
            bfloat16=frozenset(tensor.name for tensor in manifest.outputs if tensor.data_type == "TYPE_BF16"),
            failure_dir=failure_dir,
            fix=_REPLACE,
        )
        proven = prover.prove(sizes)
    if not manifest.adopted:
        refuse_stale_shapes(model, warnings)
    return make_proof(sizes, reference, tolerances, proven, drawn=manifest.proof.drawn)


def check_files(version_dir: Path, manifest: Manifest) -> None:
    """Check that the files of a version are those that were proven.

    Raises:
        RepositoryError: A file is missing, or is not a regular one of its version.
        VerificationError: They changed.
    """
    model = version_dir / manifest.model.file
    try:
        found = manifest.model.at(version_dir)
    except OSError as error:
        what = f"the version's files cannot be read: {reason(error)}"
        raise RepositoryError(model, what, _RESTORE) from error
    if found == manifest.model:
        return
    if manifest.adopted:
        fix = f"restore them, or delete {MANIFEST_FILE} and {manifest.reference.file} here and adopt the version again"
        raise VerificationError(model, "the model's files changed after they were adopted", fix)
    raise VerificationError(model, "the model's files changed after they were published", "publish the model again")


def _check_weights(version_dir: Path, manifest: Manifest) -> None:
    """Check which files ONNX Runtime will read: others than those of the manifest were not compared with it."""
    model, folder = version_dir / manifest.model.file, version_dir.resolve()
    try:
        found = {file.relative_to(folder).as_posix() for file in weights_of(model)}
    except ModelError as error:
        raise RepositoryError(error.where, error.what, _RESTORE) from error
    if strange := found - set(manifest.model.weights):
        what = f"it takes weights from {min(strange)!r}, which the manifest does not list"
        raise RepositoryError(model, what, _RESTORE)


def _check_reference(version_dir: Path, manifest: Manifest, reference: Arrays) -> None:
    expected = {f"input:{t.name}" for t in manifest.inputs} | {f"output:{t.name}" for t in manifest.outputs}
    if expected != reference.keys():
        what = f"the reference contains {sorted(reference)}, but the manifest lists {sorted(expected)}"
        raise RepositoryError(version_dir, what, "publish the model again")


def _batch_sizes(manifest: Manifest) -> tuple[int, ...]:
    """Return the batch sizes of the former proof, or a few if there was none."""
    if manifest.proof.batch_sizes or not manifest.max_batch_size:
        return manifest.proof.batch_sizes
    return batch_sizes(manifest.max_batch_size, set())
