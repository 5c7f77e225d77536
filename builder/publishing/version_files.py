"""Make what is stored for a version: the files that Triton loads, the manifest, and the reference."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from builder.batching import BatchedModel, Rewrite
from builder.errors import ModelError
from builder.model import Model
from builder.printable import counted, was
from builder.proof import VerifiedModel
from builder.publishing.lowered import ProvenModel
from builder.publishing.options import PublishOptions
from builder.publishing.plan_files import KeptPlans, plan_files, proof_of_plan
from builder.record import (
    MANIFEST_FILE,
    MOST_REWRITTEN,
    PLAN_FILE,
    REFERENCE_FILE,
    Accuracy,
    Content,
    Download,
    Manifest,
    ModelFile,
    Plan,
    Proof,
    ReferenceFile,
    ServedTensor,
    Source,
)
from builder.repository import Artifact
from builder.tensorrt import CompiledModel
from builder.version import __version__

MODEL_FILE = "model.onnx"

_OWN_FILES = {REFERENCE_FILE, MANIFEST_FILE}


def make_artifact(
    proven: ProvenModel,
    options: PublishOptions,
    *,
    max_batch_size: int,
    compiled: CompiledModel | None = None,
    kept: KeptPlans | None = None,
    file: str = MODEL_FILE,
    download: Download | None = None,
) -> Artifact:
    """Put together what the repository stores.

    Args:
        proven: The proven model.
        options: What the caller asked for.
        max_batch_size: The largest batch size that may be served; ignored for a static model.
        compiled: The TensorRT plan to store instead of the ONNX file, or beside it with `--fallback onnx`.
        kept: The plans of the served version to store beside it.
        file: The name that the config gives to the ONNX file. One that cannot be used is not: installing the version
            then says that the config contradicts it.
        download: Where the model was fetched from; None if it was here.

    Raises:
        ModelError: A file of external weights has the name of one of the version's own files.
    """
    verified = proven.verified
    batched = verified.batched
    model = batched.original
    if file in _OWN_FILES or len(PurePosixPath(file).parts) != 1 or file == PLAN_FILE:
        file = MODEL_FILE
    stored = _stored(proven, compiled, kept or KeptPlans(), file, has_fallback=options.fallback is not None)
    manifest = Manifest(
        builder=__version__,
        max_batch_size=0 if batched.is_static else max_batch_size,
        source=replace(source_of(batched), download=download),
        options=options.to_manifest(),
        model=ModelFile.of(stored.file, stored.files, others=stored.others, known=model.digests),
        inputs=tuple(map(ServedTensor.of, batched.inputs)),
        outputs=tuple(map(ServedTensor.of, batched.outputs)),
        rewrites=tuple(_listed(_rewrites(batched))),
        proof=stored.proof,
        plan=stored.plan,
        other_plans=stored.other_plans,
        reference=ReferenceFile(REFERENCE_FILE, verified.proof.rows),
        quantization=proven.quantization,
        accuracy=stored.accuracy,
        speed=proven.speed,
    )
    return Artifact(stored.files, manifest, verified.reference, model.states)


@dataclass(frozen=True, slots=True)
class _Stored:
    """The files of a version, and what was found out about the one that config.pbtxt serves.

    Attributes:
        file: That file.
        files: All files, by name.
        proof: The comparison with the original that it passed.
        accuracy: How often it is right on the user's data; None if that was not measured.
        others: The files that are neither the model nor its weights.
        plan: The plan that was built; None if none was.
        other_plans: Plans for other GPUs.
    """

    file: str
    files: Mapping[str, Content]
    proof: Proof
    accuracy: Accuracy | None
    others: Collection[str] = ()
    plan: Plan | None = None
    other_plans: tuple[Plan, ...] = ()


def _stored(
    proven: ProvenModel, compiled: CompiledModel | None, kept: KeptPlans, file: str, *, has_fallback: bool
) -> _Stored:
    """Choose what is stored: an ONNX file, plans, or both."""
    verified = proven.verified
    if compiled is None:
        return _Stored(file, _onnx_files(verified, file), verified.proof, proven.accuracy)
    found = plan_files(compiled, verified, kept, is_beside=has_fallback)
    beside = found.contents
    if has_fallback:
        files = {**_onnx_files(verified, file, taken=beside), **beside}
        return _Stored(file, files, verified.proof, proven.accuracy, beside.keys(), found.plan, found.others)
    proof, others = proof_of_plan(compiled, verified), beside.keys() - {PLAN_FILE}
    return _Stored(PLAN_FILE, beside, proof, compiled.accuracy, others, found.plan, found.others)


def _onnx_files(verified: VerifiedModel, file: str, taken: Collection[str] = ()) -> dict[str, Content]:
    """Return the ONNX file and the files of external weights, at the same relative paths as in the original."""
    folder = verified.batched.original.path.parent.resolve()
    weights: dict[str, Content] = {path.relative_to(folder).as_posix(): path for path in verified.external_files}
    if twice := weights.keys() & {file, *_OWN_FILES, *taken}:
        name = min(twice)
        what = f"this file of weights has the name of a file that every version has, {name}"
        raise ModelError(folder / name, what, "export the model with another name for its external data")
    return {file: verified.model_bytes, **weights}


def source_of(batched: BatchedModel) -> Source:
    """Describe the file that a model was read from."""
    model: Model = batched.original
    return Source(
        file=model.path.name,
        sha256=model.sha256,
        bytes=sum(file.stat().st_size for file in model.files),
        static_batch=batched.static_batch,
        producer=f"{model.ir.producer_name or ''} {model.ir.producer_version or ''}".strip(),
        opset={domain or "ai.onnx": version for domain, version in model.ir.opset_imports.items()},
    )


def _rewrites(batched: BatchedModel) -> Iterator[Rewrite]:
    for output, labels in batched.original.zipmaps.items():
        yield Rewrite(output, "ZipMap", f"its dictionaries became a tensor with the columns {list(labels)}")
    for name in batched.original.constants:
        yield Rewrite(name, "Constant", "the input became a constant")
    for name in batched.original.left_out:
        yield Rewrite(name, "Output", "the output was left out")
    yield from batched.rewrites


def _listed(rewrites: Iterable[Rewrite]) -> Iterator[dict[str, str]]:
    """Yield what the manifest says about the rewritten nodes, and how many it does not name if there are very many."""
    left = MOST_REWRITTEN
    unnamed = 0
    for rewrite in rewrites:
        left -= len(rewrite.node) + len(rewrite.op_type) + len(rewrite.what)
        if left >= 0:
            yield {"node": rewrite.node, "op_type": rewrite.op_type, "what": rewrite.what}
        else:
            unnamed += 1
    if unnamed:
        yield {"node": "", "op_type": "", "what": f"{counted(unnamed, 'more node')} {was(unnamed)} rewritten"}
