"""Ask a Triton over HTTP which versions of which models it has loaded.

It is asked over HTTP because this endpoint of Triton has no TLS, so the key and the address are all that is needed.
"""

import http.client
import json
from dataclasses import dataclass

from builder.errors import HostError
from builder.server.admin import AdminAccess

_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A version in a server's repository index, or a model that has none in memory.

    Attributes:
        model: The model's name.
        version: The version; None for a model of which none was loaded.
        state: `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`; empty for a model of which no version was loaded.
        reason: Why it is not ready; often empty.
    """

    model: str
    version: int | None
    state: str
    reason: str

    @property
    def answers(self) -> bool:
        """Whether the version answers, or will do so in a moment."""
        return self.state in ("READY", "LOADING")


def read_index(http_address: str, admin: AdminAccess) -> list[IndexEntry]:
    """Return the repository index of a server: an entry for each version that was loaded since it started.

    Args:
        http_address: `host:port` of its HTTP endpoint.
        admin: The key to its administrative APIs.

    Raises:
        HostError: It does not answer, or refuses the key.
    """
    connection = http.client.HTTPConnection(http_address, timeout=_ANSWER_S)
    try:
        connection.request("POST", "/v2/repository/index", "{}", admin.http_headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            raise ValueError(f"it answers with status {answer.status}")
        return [_entry(entry) for entry in json.loads(content)]
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError) as error:
        why = str(error) or type(error).__name__
        what = f"this server does not say which models it serves: {why}"
        raise HostError(f"http://{http_address}", what, "check that it is running, then try again") from error
    finally:
        connection.close()


def _entry(entry: dict[str, str]) -> IndexEntry:
    version = entry.get("version", "")
    return IndexEntry(entry["name"], int(version) if version else None, entry.get("state", ""), entry.get("reason", ""))
