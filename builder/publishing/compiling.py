"""Compile a proven model, and keep those nodes in fp32 that the compiler refuses in a lower precision.

They are found by building, not by a list. Take an LSTM with sequence lengths, which TensorRT 11 refuses in fp16:

    lower, parse     TensorRT: LSTM /r/LSTM: ISelectLayer must have inputs of the same types but has Half and Float
    lower, parse     /r/LSTM stays in fp32: accepted
    prove, build     the bytes with that LSTM in fp32

Parsing takes a moment, so the model is parsed before it is proven. What TensorRT only finds while it builds is found
after a proof, and then the changed model is proven again. If it names no node, sets of nodes are tried in fp32.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import onnx_ir as ir

from builder import bounded
from builder.batching import BatchedModel
from builder.bounded import during
from builder.config import Profile
from builder.errors import BuilderError
from builder.lowering import lower
from builder.printable import counted
from builder.progress import Report
from builder.proof import Baseline, Rewritten, VerifiedModel
from builder.publishing.lowered import ProvenModel, prove_lowered, request_of
from builder.publishing.options import PublishOptions
from builder.tensorrt import UnbuildableError, build, build_time, check_builds, check_parses
from builder.tensors import Arrays

MOST_ROUNDS = 8
"""How many times nodes are put into fp32 because the compiler refuses them."""

ROUNDS_BY_NODE = 2
"""In how many of these rounds only the named nodes are. Later, all nodes of the same operators are too."""

MOST_TRIALS = 16
"""How many builds are tried to find the node, if the compiler names none."""

MOST_S = 900.0
"""The longest time for these builds, seconds. The one that goes on is not interrupted."""

INSTEAD = "publish with --format onnx"

Compiled = TypeVar("Compiled")


def compile_proven(
    batched: BatchedModel,
    options: PublishOptions,
    samples: Arrays | None,
    largest: int,
    report: Report,
    *,
    profiles: Sequence[Profile],
    compile_model: Callable[[VerifiedModel], Compiled],
    baseline: Baseline | None = None,
) -> tuple[ProvenModel, Compiled]:
    """Lower a model to the precision asked for, prove it, and compile it; nodes that are refused stay in fp32.

    Args:
        batched: The model in fp32, with its final names.
        options: What the caller asked for.
        samples: The user's samples, `[rows, *dims]` by input; None if there are none.
        largest: The largest batch size that will be served.
        report: Called with each step's name and what it found.
        profiles: The shapes that the plan is built for.
        compile_model: Compiles the proven model.
        baseline: How right the original is on labelled samples; None if that was not measured.

    Raises:
        UnbuildableError: The compiler refuses the model for another reason than the precision of a few nodes.
        HostError: This machine cannot build plans, or not with these options.
        ModelError: Too little of the model can compute in the precision.
        VerificationError: The answers are not the original's.
    """
    with build_time(), during("the compiler is tried"):
        check_builds(options.build)
    search = _Search(batched, options, samples, profiles, report)
    while True:
        try:
            proven = prove_lowered(
                batched,
                options,
                samples,
                largest,
                report,
                keep=search.keep,
                baseline=baseline,
                check=search.check_parses,
            )
            with build_time(), during("the plan is built"):
                return proven, compile_model(proven.verified)
        except UnbuildableError as error:
            search.keep_more(error)


class _Search:
    """Looks for the nodes that have to stay in fp32.

    Attributes:
        keep: Their names, as far as they are known.
    """

    def __init__(
        self,
        batched: BatchedModel,
        options: PublishOptions,
        samples: Arrays | None,
        profiles: Sequence[Profile],
        report: Report,
    ) -> None:
        self.keep: frozenset[str] = frozenset()
        self._batched = batched
        self._options = options
        self._samples = samples
        self._profiles = profiles
        self._report = report
        self._build = replace(options.build, precision=options.precision)
        self._names = [str(node.name) for node in batched.ir.graph.all_nodes() if node.name]
        self._lowered = batched
        self._rounds = 0

    def check_parses(self, lowered: BatchedModel) -> None:
        """Let the compiler parse the lowered model.

        Raises:
            UnbuildableError: It refuses it.
        """
        self._lowered = lowered
        where = lowered.original.path
        failed = UnbuildableError(where, "the compiler's parser crashes on it, or needs more memory or time", INSTEAD)
        with bounded.fall_back(failed), during("the compiler parses it"):
            check_parses(self._written(lowered), self._build)

    def keep_more(self, error: UnbuildableError) -> None:
        """Add the nodes to `keep` that the compiler refused in the precision.

        Raises:
            UnbuildableError: That cannot help.
        """
        if self._options.precision == "fp32" or not error.is_about_precision or self._rounds == MOST_ROUNDS:
            raise error
        if not self._rounds:
            self._check_fp32(error)
        self._rounds += 1
        found = self._refused(error) or self._searched(error)
        if not found:
            raise error
        self.keep |= found
        what = f"{_listed(sorted(found))} in fp32, because {str(error.what).splitlines()[0]}"
        self._report("reduce", what)

    def _check_fp32(self, error: UnbuildableError) -> None:
        """Raise the error for the model in fp32 if it is refused in fp32 too."""
        build = replace(self._build, precision="fp32")
        try:
            check_parses(Rewritten.of(self._batched, None, is_lowered=False), build)
        except UnbuildableError as in_fp32:
            raise in_fp32 from error

    def _refused(self, error: UnbuildableError) -> frozenset[str]:
        """Return the nodes to keep that the compiler names, or those around them if it is not their own precision."""
        nodes = {node.name: node for node in self._lowered.ir.graph.all_nodes()}
        named = [nodes[name] for name in error.nodes if name in nodes]
        if self._rounds > ROUNDS_BY_NODE:
            kinds = {(node.domain, node.op_type) for node in named}
            named += [node for node in nodes.values() if (node.domain, node.op_type) in kinds]
        found = {str(node.name) for node in named if node.name in self._names} - self.keep
        if not found:
            found = {name for node in named for name in self._around(node)} - self.keep
        return frozenset(found)

    def _around(self, node: ir.Node) -> Iterator[str]:
        """Yield the nodes of the original that are next to a node, beyond casts and the like that lowering added."""
        for step in (_producers, _consumers):
            seen, ahead = {node}, list(step(node))
            while ahead:
                other = ahead.pop()
                if other in seen:
                    continue
                seen.add(other)
                if other.name in self._names:
                    yield str(other.name)
                else:
                    ahead.extend(step(other))

    # ---------------------------------------------------------------- where it names no node

    def _searched(self, error: UnbuildableError) -> frozenset[str]:
        """Return a small set of nodes with which in fp32 the model is built; empty if none was found.

        Halves of the nodes are tried first. If with neither in fp32 the model is built, there are several nodes in
        both, or too little is left in the precision: then smaller parts are tried (delta debugging, Zeller 1999).
        """
        self._report("reduce", f"looking for what the compiler refuses in {self._options.precision}")
        started = time.monotonic()
        group = [str(node.name) for node in self._lowered.ir.graph if node.name in self._names]
        group = [name for name in group if name not in self.keep]
        parts, trials, is_found = 2, 0, False
        while len(group) > 1:
            for part in _split(group, parts):
                if trials == MOST_TRIALS or time.monotonic() > started + MOST_S:
                    return frozenset(group) if is_found else frozenset()
                trials += 1
                if self._is_built(self.keep | set(part)):
                    group, parts, is_found = part, 2, True
                    break
            else:
                if parts >= len(group):
                    break
                parts = min(2 * parts, len(group))
        return frozenset(group) if is_found else frozenset()

    def _is_built(self, keep: frozenset[str]) -> bool:
        try:
            lowered = lower(self._batched, request_of(self._batched, self._options, self._samples, keep))
            with build_time():
                build(self._written(lowered.batched), self._profiles, self._build, lambda _: None)
        except bounded.LimitError:
            raise
        except BuilderError:
            return False
        return True

    def _written(self, lowered: BatchedModel) -> Rewritten:
        return Rewritten.of(lowered, None, is_lowered=self._options.precision != "fp32")


def _producers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None:
            yield producer


def _consumers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.outputs:
        yield from (use.node for use in value.uses())


def _split(names: list[str], parts: int) -> Iterator[list[str]]:
    """Yield a list in parts of about the same length."""
    bounds = [len(names) * part // parts for part in range(parts + 1)]
    yield from (names[low:high] for low, high in pairwise(bounds) if low < high)


def _listed(names: Sequence[str]) -> str:
    """Return what stays in fp32, with its verb: `/a and /b stay`, or `/a, /b, /c and 4 other nodes stay`."""
    shown = list(names[:3])
    if len(names) > len(shown):
        shown.append(counted(len(names) - len(shown), "other node"))
    listed = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
    return f"{listed} {'stays' if len(names) == 1 else 'stay'}"
