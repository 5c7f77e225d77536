"""What is kept of the messages of TensorRT and its parser: the reason, in one readable line."""

import logging
import os
import time

import pytest

from builder.tensorrt.messages import listening, plain, reasons

CUDA = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime "
    "version))"
)
"""What TensorRT for RTX 1.7.1 logs after every other error on a machine without a GPU."""

SELECT = "ISelectLayer must have `thenInput` and `elseInput` of same types but has Half and Float"

WORDED = {
    # TensorRT for RTX 1.7.1
    "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported. Please set "
    "kENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA to enable asymmetric quantization if it is on DLA.": (
        "Non-zero zero point is not supported"
    ),
    'creator && "Plugin not found, are the plugin name, version, and namespace correct?"': (
        "Plugin not found, are the plugin name, version, and namespace correct?"
    ),
    'Assertion failed: convertDtype(onnxDtype.elem_type(), &trtDtype) && "Failed to convert ONNX date type to TensorRT '
    'data type."': "Failed to convert ONNX date type to TensorRT data type",
    '(mode == "half_pixel" || mode == "asymmetric") && "TensorRT only supports half_pixel, asymmetric and " '
    '"align_corners transformation modes!"': (
        "TensorRT only supports half_pixel, asymmetric and align_corners transformation modes"
    ),
    "ITensor::getDimensions: Error Code 4: API Usage Error ((Unnamed Layer* 102) [Select]: " + SELECT + ". In "
    "validateTypes at /_src/optimizer/common/nodes/selectNode.cpp:27)": SELECT,
    "[tacticSupply.cpp::getSupportedFormats::48] Error Code 2: Internal Error (Assertion !layerImpls.empty() failed. "
    "/nms_0 has no runners that implement it In getSupportedFormats at /_src/optimizer/builder/tacticSupply.cpp:48)": (
        "/nms_0 has no runners that implement it"
    ),
    "IBuilder::buildSerializedNetwork: Error Code 4: Internal Error (Profile kOPT values are not self-consistent. "
    "Dimensions with name N must be equal. Condition '==' violated: 2 != 3. In operator() at "
    "/_src/runtime/core/shapeMachine.cpp:640 Instruction: CHECK_EQUAL 2 3. In executeContinuation at "
    "/_src/runtime/core/shapeMachine.cpp:1103 In computeEngineAuxMemorySizes at "
    "/_src/optimizer/common/memoryComputation.cpp:217)": (
        "Profile kOPT values are not self-consistent. Dimensions with name N must be equal. Condition '==' violated: "
        "2 != 3. Instruction: CHECK_EQUAL 2 3"
    ),
    "[localCheckMacros.cpp::getErrorStr::132] Error Code 2: OutOfMemory (Requested size was 1 bytes.)": (
        "out of memory: Requested size was 1 bytes"
    ),
    "ModelImporter.cpp:151: ERROR: onnxOpImporters.cpp:7476 In function importScatterElements:\n[9] Unsupported "
    "reduction type": "Unsupported reduction type",
    'Assertion failed: mode == "none": ScatterND with reduction is not supported': (
        "ScatterND with reduction is not supported"
    ),
    "Initializers: Failed to import initializer: In node -1 with name:  and operator:  (importInitializers): "
    "UNSUPPORTED_NODE: Assertion failed: ctx->convert(initializer, &weights): Failed to import initializer: d": (
        "Failed to import initializer: d"
    ),
    "[myelin.cpp::f::1] Error Code 9: Internal Error (MyelinCheckException: decompose_composite_ops.cpp:59: "
    "CHECK(composite_op->is_decomposable()) failed. Attention operation was not supported by a dedicated kernel.)": (
        "Attention operation was not supported by a dedicated kernel"
    ),
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([backpropagation.cpp:193: throw_errors] The following "
    "checks failed:\n\nError during shape inference of\n__resh6195 = reshape(transposed.1), shape=(1, n, 4)\nError "
    "is:\nMismatched number of elements in reshape op: __resh6195\n; [m)": (
        "Mismatched number of elements in reshape op: __resh6195"
    ),
    # TensorRT 8 and 10, from reports
    "2: [builder.cpp::createCaskKernelLibraryImpl::157] Error Code 2: Internal Error (Assertion "
    "validateCaskKLibSize(buffer.size) failed. )": "Assertion validateCaskKLibSize(buffer.size) failed",
    "IBuilder::buildSerializedNetwork: Error Code 6: API Usage Error (Unable to load library: libnvinfer_lean.so.10: "
    "libnvinfer_lean.so.10: cannot open shared object file: No such file or directory)": (
        "Unable to load library: libnvinfer_lean.so.10: libnvinfer_lean.so.10: cannot open shared object file: No such "
        "file or directory"
    ),
    "\x1b[38;5;9m[E] 6: The engine plan file is not compatible with this version of TensorRT, expecting library "
    "version 8.0.0 got 8.0.1, please rebuild.\x1b[0m": (
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 8.0.0 got "
        "8.0.1, please rebuild"
    ),
}


@pytest.mark.parametrize(("text", "line"), WORDED.items())
def test_of_a_message_the_reason_stays(text: str, line: str) -> None:
    assert reasons([text]) == (line,)


def test_what_only_follows_from_another_message_is_left_out() -> None:
    parser = (
        "Invalid Node - /r/LSTM\nITensor::getDimensions: Error Code 4: API Usage Error ((Unnamed Layer* 102) [Select]: "
        f"{SELECT}. In validateTypes at /_src/optimizer/common/nodes/selectNode.cpp:27)\n{CUDA}"
    )
    begin, end = (
        'ModelImporter.cpp:142: --- Begin node ---\ninput: "x"\nNode name: /r/LSTM',
        "ModelImporter.cpp:143: --- End node ---",
    )
    number = 'ModelImporter.cpp:140: While parsing node number 29 [LSTM -> "/r/LSTM_output_0"]:'
    assert reasons([parser, CUDA, number, begin, end, "Could not parse ONNX correctly"]) == (SELECT,)


def test_that_cuda_fails_is_the_reason_if_there_is_no_other() -> None:
    assert reasons([CUDA]) == ("cudaError 35: CUDA driver version is insufficient for CUDA runtime version",)


@pytest.mark.parametrize(
    "text", ["", "(", "Error Code 4: ", "In  at ", "In a at b.cpp:1", '&& "', "\x1b[", "[E] " * 999]
)
def test_any_text_is_worded(text: str) -> None:
    assert "\n" not in plain(text)


@pytest.mark.parametrize("text", ["In function f: " + "In a" * 20_000 + " at b", "In a at " * 20_000, "a::" * 30_000])
def test_a_long_message_takes_no_time(text: str) -> None:
    started = time.process_time()
    assert len(*reasons([text])) > 1000
    assert time.process_time() - started < 1


@pytest.mark.rtx
def test_what_polygraphy_logs_is_collected_and_its_settings_stay() -> None:
    from polygraphy.logger import G_LOGGER as logger  # noqa: N811

    handlers = logging.getLogger("Polygraphy").handlers[:]
    before = (logger.use_python_logging_system, logger.colors, logger.letter)
    with listening() as log:
        logger.info("building")
        logger.warning("Tactic Device request: 448MB Available: 425MB")
        logger.error("4: [builder.cpp::build::1] Error Code 4: Internal Error (it fails)")
    assert [line.text[:6] for line in log.lines] == ["Tactic", "4: [bu"]
    assert log.errors == ("it fails",)
    assert (logger.use_python_logging_system, logger.colors, logger.letter) == before
    assert logging.getLogger("Polygraphy").handlers == handlers


@pytest.mark.rtx
def test_nothing_that_is_collected_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    from polygraphy.logger import G_LOGGER as logger  # noqa: N811

    with listening() as log:
        logger.error("it fails")
        os.write(1, b"WARNING: in op clamp, operand beta requires precision-lose casting\n")  # as TensorRT for RTX does
    assert [line.text[:7] for line in log.lines] == ["it fail", "WARNING"]
    assert capfd.readouterr() == ("", "")
