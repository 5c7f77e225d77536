"""What is searched beside the usual settings for a TensorRT plan: its optimization profiles, and CUDA graphs.

Source: GetMostOptimizedProfile, InitOptimizationProfiles and InitializeGraphSpecs in
https://github.com/triton-inference-server/tensorrt_backend/blob/main/src/instance_state.cc. An instance runs each batch
with the profile whose usual shape is the nearest one among those that it has. Without `graph_spec`, graphs are
recorded for a batch of 1, of each preferred size and of `max_batch_size`, with the usual sizes of each profile on the
other axes; a batch of any other shape runs without one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.config import Shapes, parse_profile
from builder.errors import RepositoryError
from builder.record import Manifest
from builder.tuning.measurement import Configuration

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_Profile = Mapping[str, Shapes]


@dataclass(frozen=True, slots=True)
class PlanUse:
    """One way to run a plan.

    Attributes:
        profiles: The profiles that each instance has; empty means the first one.
        cuda_graphs: Whether it runs as a CUDA graph.
        largest: The largest batch that these profiles take, in rows.
        usual: The batch sizes that these profiles were optimized for, below `largest`: preferred sizes worth trying.
    """

    profiles: tuple[int, ...]
    cuda_graphs: bool
    largest: int
    usual: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanChoices:
    """The profiles of a plan, and the ways in which they can be used.

    Attributes:
        profiles: The shapes by input, for each profile.
        served: The largest batch that clients may send now; 0 when the version has no batch.
        proven: The largest batch that the version was proven for.
    """

    profiles: tuple[_Profile, ...]
    served: int
    proven: int

    @classmethod
    def of(cls, config: "ModelConfig", manifest: Manifest, *, where: object) -> "PlanChoices | None":
        """Return the choices for a version; None if its config does not serve a TensorRT plan.

        A plan that lies beside an ONNX file is none of these: one config has to serve both, and Triton refuses
        `profile` for an ONNX file.

        Raises:
            RepositoryError: The plans of the version are for several GPUs and have different profiles, or the manifest
                does not say which profiles there are.
        """
        if manifest.backend != "tensorrt" or not manifest.plans:
            return None
        texts = {tuple(tuple(sorted(profile.items())) for profile in plan.profiles) for plan in manifest.plans}
        if len(texts) > 1:
            what = "its plans for several GPUs have different profiles, and one config serves them all"
            raise RepositoryError(where, what, "publish the plans with the same --profile options")
        try:
            profiles = _read(next(iter(texts)))
        except ValueError as error:
            what = f"the profiles of its plan cannot be read from the manifest: {error}"
            raise RepositoryError(where, what, "restore the manifest, or publish the model again") from error
        return cls(profiles, config.max_batch_size, manifest.max_batch_size)

    def uses(self, current: Configuration) -> tuple[PlanUse, ...]:
        """Return the ways to run the plan that are worth a measurement, the current one first.

        All profiles together, or a single one that takes every shape that any of them takes: it needs less memory, and
        every batch has the same kernels. Each with and without CUDA graphs.
        """
        sets = list(dict.fromkeys((current.profiles, *self._sets())))
        graphs = (current.cuda_graphs, not current.cuda_graphs)
        return tuple(self._use(numbers, is_graph) for is_graph in graphs for numbers in sets)

    def _sets(self) -> Iterator[tuple[int, ...]]:
        every = tuple(range(len(self.profiles)))
        if len(every) > 1:
            yield every
            yield from ((number,) for number in every if self._takes_all(number))

    def _takes_all(self, number: int) -> bool:
        """Return whether one profile takes what any other one takes, up to the largest batch that clients may send."""
        return all(
            low <= smallest and (high >= largest or (axis == 0 and 0 < self.served <= high))
            for name, own in self.profiles[number].items()
            for axis, (low, high) in enumerate(zip(own.min, own.max, strict=True))
            for smallest, largest in [self._bounds(name, axis)]
        )

    def _bounds(self, name: str, axis: int) -> tuple[int, int]:
        shapes = [profile[name] for profile in self.profiles]
        return min(each.min[axis] for each in shapes), max(each.max[axis] for each in shapes)

    def _use(self, numbers: tuple[int, ...], is_graph: bool) -> PlanUse:
        if self.served == 0:
            return PlanUse(numbers, is_graph, 0, ())
        used = [self.profiles[number] for number in numbers or (0,) if number < len(self.profiles)]
        batches = [next(iter(profile.values())) for profile in used]
        largest = min(self.proven, max((each.max[0] for each in batches), default=self.served))
        usual = sorted({each.opt[0] for each in batches if each.opt[0] < largest})
        return PlanUse(numbers, is_graph, largest, tuple(usual))


def _read(texts: Sequence[Sequence[tuple[str, str]]]) -> tuple[_Profile, ...]:
    """Read the profiles of a plan, each as pairs of an input and its shapes.

    Raises:
        ValueError: They are not written as profiles are, or differ in their inputs.
    """
    profiles = tuple({name: parse_profile(f"{name}={text}")[1] for name, text in pairs} for pairs in texts)
    if len({tuple((name, len(own.min)) for name, own in profile.items()) for profile in profiles} - {()}) != 1:
        raise ValueError("they do not have the same inputs, with the same number of dimensions")
    return profiles
