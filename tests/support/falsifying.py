"""A gateway in front of a real server that passes everything on, and changes some of the answers over gRPC."""

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

Edit = Callable[[Any], object]
"""Changes a ModelInferResponse."""


@contextmanager
def falsifying(address: str, edit: Edit) -> Iterator[str]:
    """Run the gateway on a free port, and yield its address."""
    infer = "/inference.GRPCInferenceService/ModelInfer"

    def pass_on(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        headers = [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]
        try:
            answer: bytes = channel.unary_unary(method)(request, metadata=headers)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
        if method != infer:
            return answer
        response = service_pb2.ModelInferResponse.FromString(answer)
        edit(response)
        return bytes(response.SerializeToString())

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: pass_on(details.method, request, context)
            )

    with grpc.insecure_channel(address) as channel:
        server = grpc.server(futures.ThreadPoolExecutor(32))
        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def flip_a_bit_of(name: str, version: int) -> Edit:
    """Change the first output of one version of one model."""

    def edit(response: Any) -> None:
        if (response.model_name, response.model_version) == (name, str(version)):
            first = response.raw_output_contents[0]
            response.raw_output_contents[0] = first[:3] + bytes([first[3] ^ 0x40]) + first[4:]

    return edit
