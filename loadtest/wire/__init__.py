"""Requests and answers on the wire: KServe v2 over HTTP/1.1 and over gRPC."""
