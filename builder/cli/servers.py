"""The options of the commands that talk to running servers: which ones, and how to be let in."""

from collections.abc import Callable
from typing import Any, TypeVar

from builder.cli.arguments import FILE_TO_READ
from builder.cli.options import admin_header, admin_key_file, option

ACCESS = "Access to the servers"

Function = TypeVar("Function", bound=Callable[..., Any])

_header_file = option(
    "--header-file",
    section=ACCESS,
    type=FILE_TO_READ,
    metavar="FILE",
    help="A file of headers to send with each request, one on each line. For example, authorization: Bearer TOKEN, or "
    "triton-grpc-protocol-infer-key: KEY for a server that restricts inference.",
)
_ca_file = option(
    "--ca-file",
    section=ACCESS,
    type=FILE_TO_READ,
    metavar="FILE",
    help="The root certificates that a grpcs:// server's certificate must be signed by, in PEM. Default: the system's.",
)
_client_cert = option(
    "--client-cert",
    section=ACCESS,
    type=FILE_TO_READ,
    metavar="FILE",
    help="Your own certificate, in PEM, for a grpcs:// server that asks for one.",
)
_client_key = option(
    "--client-key",
    section=ACCESS,
    type=FILE_TO_READ,
    metavar="FILE",
    help="The key of --client-cert, in PEM.",
)
servers_file = option(
    "--servers-file",
    type=FILE_TO_READ,
    metavar="FILE",
    help="A file with the address of a server on each line. Text after a # is a comment.",
)


def server_access(function: Function) -> Function:
    """Declare the options for the admin key, other headers and certificates; `take_access` reads them."""
    key_file = admin_key_file("the key of the server that you run at this address with serve")
    for declare in (_client_key, _client_cert, _ca_file, _header_file, admin_header, key_file):
        function = declare(function)
    return function


def take_access(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options for access out of those that were given, read the files, and return arguments for `api`."""
    from builder.deployment import Certificates, read_headers
    from builder.server import given_access

    admin = given_access(given.pop("admin_key_file"), given.pop("admin_header"))
    files = [given.pop(option) for option in ("ca_file", "client_cert", "client_key")]
    header_file = given.pop("header_file")
    headers = None if header_file is None else read_headers(header_file)
    return {"admin": admin, "headers": headers, "certificates": Certificates.read(*files)}


def take_servers(given: dict[str, Any]) -> list[Any]:
    """Take the options that name servers out of those that were given, and return the addresses; there may be none."""
    from builder.deployment import read_servers

    servers, file = list(given.pop("servers")), given.pop("servers_file")
    return servers if file is None else [*servers, *read_servers(file)]
