"""The rewritten model as it runs in ONNX Runtime."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from builder.batching import BatchedModel
from builder.proof.comparison import coarsest_float, coarsest_precision
from builder.proof.session import Session, open_rewritten

MAPPED_BYTES = 256 << 20
"""From this size on, external weights are read where they are mapped into memory, if the answers stay as good."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The rewritten model, serialized.

    Attributes:
        batched: The model.
        rounded: For fp16 and bf16, the same model in fp32 with every value rounded; otherwise None.
        is_lowered: Whether it computes in a lower precision than the original.
        precision: The least precise number type in the model, as `coarsest_precision` names it; or
            `LOWERED_TO_INT8` if it was quantized just now.
        float_precision: The least precise float type in it, as `coarsest_float` names it.
        model_bytes: The .onnx file, without the weights that are in external files.
    """

    batched: BatchedModel
    rounded: ir.Model | None
    is_lowered: bool
    precision: str
    float_precision: str
    model_bytes: bytes

    @classmethod
    def of(cls, batched: BatchedModel, rounded: ir.Model | None, *, is_lowered: bool) -> "Rewritten":
        """Serialize a model."""
        # Unless the precision is lowered, rewriting changes no number types, so the original's graph shows all of them.
        graph = (batched.ir if is_lowered else batched.original.ir).graph
        model_bytes = ir.to_proto(batched.ir).SerializeToString(deterministic=True)
        precision = coarsest_precision(graph)
        if is_lowered and precision == "QUANTIZED":
            precision = "LOWERED_TO_INT8"
        return cls(batched, rounded, is_lowered, precision, coarsest_float(graph), model_bytes)

    @property
    def bfloat16(self) -> frozenset[str]:
        """The outputs whose arrays contain the bits of BF16."""
        return frozenset(tensor.name for tensor in self.batched.outputs if tensor.dtype == ir.DataType.BFLOAT16)

    @property
    def external_files(self) -> tuple[Path, ...]:
        """The files of external weights that the model still uses; in a lower precision that can be fewer."""
        if not self.is_lowered:
            return self.batched.original.external_files
        tensors = [value.const_value for graph in self.batched.ir.graphs() for value in graph.initializers.values()]
        used = {Path(tensor.path).resolve() for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
        return tuple(file for file in self.batched.original.external_files if file.resolve() in used)

    def open_sessions(self, *, is_trial: bool = False) -> list[Session]:
        """Open sessions on everything that has to answer as the original does: the bytes, and the rounded model.

        ONNX Runtime has no BF16 operators on a CPU, so for BF16 only the rounded model can run. A model that was
        quantized with calibration data runs as it is written too, and that is what every other processor computes. If
        its values are int8, as TensorRT wants them, it runs in no other way here: without VNNI, ONNX Runtime's kernels
        for a CPU add such products in 16 bits, and a sum that does not fit is cut off.

        Args:
            is_trial: The model may fail on the samples; it then runs on one thread.

        Raises:
            VerificationError: ONNX Runtime cannot load one of them.
        """
        source = self.batched.original.path
        sessions = []
        if self._quantizes:
            open_bytes = partial(open_rewritten, self.model_bytes, where=source, folder=source.parent)
            ways = (True,) if ir.DataType.INT8 in self._quantizes else (False, True)
            return [open_bytes(is_trial=is_trial, as_written=as_written) for as_written in ways]
        if self.rounded is None or self.precision != "BFLOAT16":
            sessions.append(
                open_rewritten(
                    self.model_bytes,
                    where=source,
                    folder=source.parent,
                    keep_layout=self.precision == "FLOAT16",
                    keep_mapped=self.precision == "FLOAT" and self._is_worth_mapping(),
                    is_trial=is_trial,
                )
            )
        if self.rounded is not None:
            for value, served in zip(self.rounded.graph.outputs, self.batched.ir.graph.outputs, strict=True):
                value.shape = served.shape
            rounded_bytes = ir.to_proto(self.rounded).SerializeToString()
            sessions.append(open_rewritten(rounded_bytes, where=source, folder=source.parent, is_trial=is_trial))
        return sessions

    @property
    def _quantizes(self) -> frozenset[ir.DataType]:
        """The types to which the values of a model are rounded that was quantized just now."""
        if self.precision != "LOWERED_TO_INT8":
            return frozenset()
        nodes = [node for node in self.batched.ir.graph if node.op_type == "QuantizeLinear"]
        zero_points = [node.inputs[2] if len(node.inputs) > 2 else None for node in nodes]
        return frozenset(value.dtype if value and value.dtype else ir.DataType.UINT8 for value in zero_points)

    @property
    def is_large(self) -> bool:
        """Whether it takes long to open it once more."""
        return sum(file.stat().st_size for file in self.batched.original.files) >= MAPPED_BYTES

    def _is_worth_mapping(self) -> bool:
        """Return whether packing the weights would cost more than it gains, and only change the order of summation.

        Operators of other domains than ONNX's can compute something else: some use quantized numbers only if packed.
        """
        weights = sum(file.stat().st_size for file in self.batched.original.external_files)
        return weights >= MAPPED_BYTES and not any(node.domain for node in self.batched.ir.graph.all_nodes())
