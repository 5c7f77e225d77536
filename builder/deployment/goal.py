"""What servers are to serve when a deployment is done: the versions, the config, and how each is checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from builder.config import (
    PROVENANCE_PREFIX,
    ClientTensor,
    Config,
    Interface,
    for_plan,
    interface,
    interface_of,
    pbtxt,
    policy,
)
from builder.errors import RepositoryError
from builder.proof import as_numbers
from builder.publishing import ConfigChange, plan_switch
from builder.record import Manifest
from builder.repository import ModelDirectory, Repository
from builder.tensors import Array

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

MODEL_SHA256 = f"{PROVENANCE_PREFIX}model_sha256"
"""The config parameter that holds the digest of the served version's model."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A version with its stored samples and answers, in the form in which clients send and get them.

    Attributes:
        version: The version.
        manifest: Its manifest, with the tolerances.
        interface: What clients see of it under the config.
        samples: The stored rows by input, each `[rows, *dims]` with the dims that clients send.
        answers: The stored answers by output, only of the outputs that clients can get.
    """

    version: int
    manifest: Manifest
    interface: Interface
    samples: Mapping[str, Array]
    answers: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Goal:
    """What every server is to serve.

    Attributes:
        model: The model's directory.
        version: The version that answers when a request names none.
        versions: All versions that are served, ascending.
        plan: The config.pbtxt that serves them, with the files that it names.
        config: The same config, read.
        plan_config: With what a server loads the TensorRT plan instead, which lies beside the ONNX file that `config`
            serves; None if there is no plan beside it, in one of the versions.
        change: How config.pbtxt has to be changed for it; None if it is right already.
        proven: The versions that can be checked, the highest first.
        unproven: The versions served beside `version` that this package did not publish.
    """

    model: ModelDirectory
    version: int
    versions: tuple[int, ...]
    plan: Config
    config: "ModelConfig"
    plan_config: "ModelConfig | None"
    change: ConfigChange | None
    proven: tuple[Proven, ...]
    unproven: tuple[int, ...]

    @property
    def has_cache(self) -> bool:
        """Whether the server may answer from its response cache, without running the model."""
        return bool(self.config.response_cache.enable)


def make_goal(
    repository: Repository, name: str, version: int | None = None, change: ConfigChange | None = None
) -> Goal:
    """Read what is needed to deploy a version, and check that its answers can be checked. Nothing is changed.

    Args:
        repository: The repository.
        name: The model.
        version: The version to deploy; None takes the one that config.pbtxt names.
        change: A change of config.pbtxt to deploy, which says itself which version it serves.

    Raises:
        RepositoryError: There is no such version, it has no reference, a file is missing, or its answers cannot be
            compared under this config.
        VerificationError: The config fixes a size that the stored samples do not have.
    """
    model = repository.model(name)
    change, version, plan = _planned(model, version, change)
    model.read_manifest(version)
    model.check_complete(version)
    config = pbtxt.parse(plan.text, where=model.config_path)
    _refuse_uncheckable(config, model)
    present = model.versions()
    versions = tuple(number for number in policy.named_versions(config, present) if number in present)
    known = [number for number in reversed(versions) if model.is_published(number)]
    proven = tuple(_read_proven(model, number, config) for number in known)
    return Goal(
        model=model,
        version=version,
        versions=versions,
        plan=plan,
        config=config,
        plan_config=_plan_config(config, proven, versions),
        change=change,
        proven=proven,
        unproven=tuple(number for number in versions if number not in known),
    )


def _planned(
    model: ModelDirectory, version: int | None, change: ConfigChange | None
) -> tuple[ConfigChange | None, int, Config]:
    """Return how config.pbtxt has to be changed, if at all, the version that it serves then, and what it says."""
    text, named = model.read_config(), model.served_version()
    version = named if version is None else version
    if change is None and version != named:
        change = ConfigChange(f"switch {model.name}", partial(plan_switch, to=version))
    if change is None:
        return None, version, Config(text, {})
    planned = change.plan(model)
    return (change if planned.content != planned.replaced else None), planned.after, planned.config


def _plan_config(config: "ModelConfig", proven: Sequence[Proven], versions: Sequence[int]) -> "ModelConfig | None":
    """Return with what a server loads the plans of all versions; None if one of them has no plan beside it.

    One config serves them all, so a version without a plan keeps the others from serving theirs.
    """
    if len(proven) < len(versions) or not all(each.manifest.has_fallback for each in proven):
        return None
    return for_plan(config, proven[0].manifest)


def _read_proven(model: ModelDirectory, version: int, config: "ModelConfig") -> Proven:
    manifest, reference = model.read_manifest(version), model.read_reference(version)
    seen = interface_of(config, manifest, where=model.config_path)
    if not any(tensor.name in manifest.proof.outputs for tensor in seen.outputs):
        what = f"it lists no output of version {version} whose right values are stored, so no answer can be checked"
        raise RepositoryError(model.config_path, what, "list an output there")
    return Proven(
        version,
        manifest,
        seen,
        _as_clients_see("input", seen.inputs, reference),
        _as_clients_see("output", seen.outputs, reference),
    )


def _as_clients_see(side: str, tensors: Sequence[ClientTensor], reference: Mapping[str, Array]) -> dict[str, Array]:
    """Return stored rows by tensor, each `[rows, *dims]` with the dims that clients see."""
    return {
        tensor.name: interface.to_client(
            tensor, as_numbers(reference[f"{side}:{tensor.name}"], is_bfloat16=tensor.data_type == "TYPE_BF16")
        )
        for tensor in tensors
    }


def _refuse_uncheckable(config: "ModelConfig", model: ModelDirectory) -> None:
    """Refuse a config under which the stored samples cannot be sent one by one, in any order.

    Raises:
        RepositoryError: The config has sequence batching, or lets an answer consist of several responses.
    """
    load = "load it with Triton's own API, and check its answers there"
    if config.HasField("sequence_batching"):
        what = "its sequence_batching lets an answer depend on the requests before, so stored answers prove nothing"
        raise RepositoryError(model.config_path, what, f"remove sequence_batching there, or {load}")
    if config.model_transaction_policy.decoupled:
        what = "it is decoupled, so that a request may have any number of answers, and no stored answer can be compared"
        raise RepositoryError(model.config_path, what, f"remove model_transaction_policy there, or {load}")
