"""A minimal KServe v2 server that is not Triton: JSON over HTTP, typed contents over gRPC, no statistics."""

import json
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2, service_pb2_grpc

METADATA: dict[str, Any] = {
    "name": "classifier",
    "platform": "onnx",
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 5]}],
    "outputs": [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "INT64", "shape": [-1, 1]},
    ],
}


@contextmanager
def serving_kserve(model: Path) -> Iterator[tuple[str, str]]:
    """Serve a classifier of `load_server` without naming versions; yield the HTTP and the gRPC address."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def infer(image: Any) -> dict[str, Any]:
        return dict(zip(("scores", "label"), session.run(["scores", "label"], {"image": image}), strict=True))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            known = {
                "/v2": {"name": "minimal", "version": "1", "extensions": []},
                "/v2/health/ready": {},
                "/v2/models/classifier": METADATA,
            }
            self.answer(known.get(self.path))

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            (image,) = asked["inputs"]
            arrays = infer(np.array(image["data"], np.float32).reshape(image["shape"]))
            outputs = [
                {
                    "name": entry["name"],
                    "datatype": entry["datatype"],
                    "shape": arrays[entry["name"]].shape,
                    "data": arrays[entry["name"]].tolist(),
                }
                for entry in METADATA["outputs"]
            ]
            self.answer({"model_name": "classifier", "outputs": outputs})

        def answer(self, value: Mapping[str, Any] | None) -> None:
            body = json.dumps(value).encode()
            self.send_response(404 if value is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ModelReady(self, request: Any, _context: Any) -> Any:  # noqa: N802
            return service_pb2.ModelReadyResponse(ready=request.name == "classifier")

        def ModelInfer(self, request: Any, _context: Any) -> Any:  # noqa: N802
            (image,) = request.inputs
            arrays = infer(np.frombuffer(request.raw_input_contents[0], np.float32).reshape(image.shape))
            response = service_pb2.ModelInferResponse(model_name="classifier")
            for name, datatype, field in (("scores", "FP32", "fp32_contents"), ("label", "INT64", "int64_contents")):
                output = response.outputs.add(name=name, datatype=datatype, shape=arrays[name].shape)
                getattr(output.contents, field).extend(arrays[name].ravel().tolist())
            return response

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    rpc = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    try:
        yield f"127.0.0.1:{http.server_address[1]}", f"127.0.0.1:{port}"
    finally:
        rpc.stop(None).wait()
        http.shutdown()
        http.server_close()
        thread.join()
