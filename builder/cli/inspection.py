"""What `inspect` prints: a model's inputs and outputs, and what publishing changes or what prevents it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from builder.api import Inspection
from builder.batching import BatchedTensor, Rewrite
from builder.cli.output import print_result, print_table
from builder.model import TensorSpec
from builder.progress import format_bytes
from builder.publishing import PlanCheck
from builder.record import Proof
from builder.tensorrt import CheckedPlan


def to_json(found: Inspection) -> dict[str, Any]:
    """Return the finding for scripts."""
    batched, refusal = found.batched, found.refusal
    by_name = _batched_tensors(found)
    return {
        "file": str(found.path),
        "sha256": found.sha256,
        "opset": {domain or "ai.onnx": version for domain, version in found.opsets.items()},
        "nodes": found.nodes,
        "batchable": batched is not None,
        "static_batch": None if batched is None else batched.static_batch,
        "refusal": None if refusal is None else refusal.what,
        "fix": None if refusal is None else refusal.fix,
        "rewrites": _rewrites_to_json(_rewrites(found)),
        "inputs": [_tensor_to_json(spec, by_name.get(spec.name)) for spec in found.inputs],
        "outputs": [_tensor_to_json(spec, by_name.get(spec.name)) for spec in found.outputs],
        "optional_inputs": [spec.name for spec in found.optional],
        "plan": None if found.plan is None else _plan_to_json(found.plan),
    }


def _rewrites_to_json(rewrites: Sequence[Rewrite]) -> list[dict[str, str]]:
    return [{"node": rewrite.node, "op_type": rewrite.op_type, "what": rewrite.what} for rewrite in rewrites]


def _plan_to_json(check: PlanCheck) -> dict[str, Any]:
    plan, refusal, proof = check.plan, check.refusal, check.proof
    return {
        "built": plan is not None,
        "run": False,
        "compiler": check.compiler,
        "version": check.version,
        "precision": check.precision,
        "lowered": _rewrites_to_json(check.lowered),
        "bytes": None if plan is None else plan.bytes,
        "seconds": None if plan is None else round(plan.seconds, 3),
        "layers": None if plan is None else dict(plan.layers),
        "profiles": None if plan is None else [dict(profile) for profile in plan.profiles],
        "proof": None if proof is None else asdict(proof),
        "accuracy": None if check.accuracy is None else asdict(check.accuracy),
        "notes": list(check.notes),
        "refusal": None if refusal is None else refusal.what,
        "fix": None if refusal is None else refusal.fix,
    }


def _tensor_to_json(spec: TensorSpec, batched: BatchedTensor | None) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": spec.dtype.name,
        "shape": list(spec.shape),
        "batch_axis": None if batched is None else batched.batch_axis,
        "rows_per_sample": None if batched is None else batched.rows,
        "dims": None if batched is None else list(batched.dims),
    }


def show(found: Inspection) -> None:
    """Print the finding as tables."""
    _show_batch(found)
    if found.plan is not None and found.plan.plan is not None:
        _show_plan(found.plan, found.plan.plan)


def _show_batch(found: Inspection) -> None:
    by_name = _batched_tensors(found)
    tensors = [
        (side, spec.name, spec.dtype.name, _shape(spec), _published_shape(by_name.get(spec.name)))
        for side, specs in (("input", found.inputs), ("output", found.outputs))
        for spec in specs
    ]
    heads = ("", "name", "type", "shape in the file", "shape when published")
    tensors += [
        ("optional", spec.name, spec.dtype.name, _shape(spec), "its value in the file") for spec in found.optional
    ]
    print_table(heads, tensors, title=found.path.name)
    if found.batched is None:
        return
    if not found.batched.rewrites:
        print_result("No node has to change: no constant contains the batch size.")
        return
    changes = [(rewrite.node, rewrite.op_type, rewrite.what) for rewrite in found.batched.rewrites]
    title = f"batch size in the file: {found.batched.static_batch}"
    print_table(("node", "operator", "change"), changes, title=title)


def _show_plan(check: PlanCheck, plan: CheckedPlan) -> None:
    """Print how a plan was built, and what that does not say."""
    layers = ", ".join(f"{count} {name}" for name, count in plan.layers.items())
    profiles = [
        ("profile" if len(plan.profiles) == 1 else f"profile {index}", _listed(profile))
        for index, profile in enumerate(plan.profiles)
    ]
    rows = [
        ("compiler", f"{plan.compiler} {plan.version}"),
        ("precision", check.precision),
        ("proof", "-" if check.proof is None else _proof(check.proof)),
        *([] if check.accuracy is None else [("accuracy", str(check.accuracy))]),
        ("size", format_bytes(plan.bytes)),
        ("time to build", f"{plan.seconds:.1f} s"),
        ("types of the layers' outputs", layers or "not listed by this compiler"),
        *profiles,
    ]
    print_table(("plan", "built and thrown away"), rows)
    for note in check.notes:
        print_result(note)


def _listed(profile: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={shapes}" for name, shapes in profile.items())


def _proof(proof: Proof) -> str:
    if proof.effort == "off":
        return "the answers were NOT compared with the original's (--prove off)"
    sizes = f" at batch sizes {', '.join(map(str, proof.batch_sizes))}" if proof.batch_sizes else ""
    return f"{proof.rows} rows equal the original's in ONNX Runtime{sizes}"


def _shape(spec: TensorSpec) -> str:
    return f"[{', '.join(map(str, spec.shape))}]"


def _batched_tensors(found: Inspection) -> Mapping[str, BatchedTensor]:
    """Return the inputs and outputs of the rewritten model, by their names in the file."""
    batched = found.batched
    return {} if batched is None else {tensor.original: tensor for tensor in (*batched.inputs, *batched.outputs)}


def _rewrites(found: Inspection) -> Sequence[Rewrite]:
    return () if found.batched is None else found.batched.rewrites


def _published_shape(tensor: BatchedTensor | None) -> str:
    if tensor is None:
        return "-"
    shape = f"[{', '.join(['N', *map(str, tensor.dims)])}]"
    rows = f" ({tensor.rows} rows per sample)" if tensor.rows > 1 else ""
    moved = f" (the batch was axis {tensor.batch_axis})" if tensor.batch_axis else ""
    return f"{shape}{rows}{moved}"
