"""Which versions a config serves (`version_policy`), by Triton's rules.

A request that names no version is answered by the highest version that is served. So that version is called the served
one, and the others are served beside it.

Source: VersionsToLoad and GetModel in
https://github.com/triton-inference-server/core/blob/main/src/model_repository_manager/model_lifecycle.cc, and
NormalizeModelConfig in https://github.com/triton-inference-server/core/blob/main/src/model_config_utils.cc
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def named_versions(config: "ModelConfig", present: Iterable[int]) -> tuple[int, ...]:
    """Return the versions that a config asks Triton to serve, ascending.

    A policy may name versions that are missing; Triton serves the others. For example, of the versions 1, 2 and 3:

        no version_policy           3
        latest { num_versions: 2 }  2, 3
        all { }                     1, 2, 3
        specific { versions: [1] }  1

    Args:
        config: The config.
        present: The versions that are in the model's directory.
    """
    policy = config.version_policy
    if policy.HasField("specific"):
        return tuple(sorted(set(policy.specific.versions)))
    every = sorted(present)
    if policy.HasField("all") or (config.HasField("version_policy") and not policy.HasField("latest")):
        return tuple(every)
    count = policy.latest.num_versions if policy.HasField("latest") else 1
    return tuple(every[max(0, len(every) - count) :])


def is_specific(config: "ModelConfig") -> bool:
    """Return whether the policy names versions by their numbers."""
    return bool(config.version_policy.HasField("specific"))


def serve(config: "ModelConfig", versions: Iterable[int], present: Iterable[int]) -> None:
    """Make a config serve exactly these versions. A policy that does so already is kept as it is."""
    wanted = tuple(sorted(set(versions)))
    if named_versions(config, present) != wanted:
        config.version_policy.specific.versions[:] = wanted


def switch_to(
    config: "ModelConfig", version: int, present: Iterable[int], *, beside: Iterable[int] | None = None
) -> None:
    """Make a config serve a version, whether it is new or an earlier one.

    In `specific` the version takes the place of the highest one. The policies `latest` and `all` are kept if they serve
    the version, as they do a new one, because its number is the highest; otherwise the versions are named. Lower
    versions that were served go on being served:

        policy               present  switch to  afterwards
        specific [1, 2]      1, 2     3 (new)    specific [1, 3]
        specific [1, 2]      1, 2     1          specific [1]
        latest 2             1, 2     3 (new)    latest 2, which is 2, 3
        all                  1, 2, 3  2          specific [1, 2]

    Args:
        config: The config.
        version: The version that will answer when a request names none.
        present: The versions that are in the model's directory.
        beside: The versions to serve beside it; None leaves that to the policy.
    """
    everything = {*present, version}
    if beside is None:
        others = named_versions(config, everything)
        if is_specific(config):
            others = others[:-1]
        beside = [other for other in others if other < version]
    serve(config, {*beside, version}, everything)
