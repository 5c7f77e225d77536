"""Reach the servers that a tuning was deployed to, to take it back: with a key only where the user lets it go.

Their addresses are in a file that others may have written. Whoever gets the key controls the servers that it opens, so
it is not sent to an address only because that file names it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from builder.deployment import Address, Certificates, LiveServer
from builder.errors import HostError
from builder.server import AdminAccess, is_loopback


@dataclass(frozen=True, slots=True)
class UndoAccess:
    """What is sent to the servers that a tuning was deployed to, and to which of them.

    Attributes:
        servers: The servers that may get it. Those on this machine always may.
        admin: The key to their administrative APIs.
        headers: Other headers, by name in lower case.
        certificates: The certificates for `grpcs://`.
    """

    servers: tuple[Address, ...] = ()
    admin: AdminAccess | None = None
    headers: Mapping[str, str] | None = None
    certificates: Certificates | None = None

    @property
    def has_secrets(self) -> bool:
        """Whether there is anything that not everybody may get."""
        has_key = self.certificates is not None and self.certificates.key is not None
        return bool(self.admin or self.headers or has_key)

    @contextmanager
    def connect(self, addresses: Sequence[str]) -> Iterator[list[LiveServer]]:
        """Connect to servers by the addresses that were written down.

        Raises:
            HostError: One of them may not get what is sent, or the user names another one.
        """
        wanted = [Address.parse(one) for one in addresses]
        self._check(wanted)
        with ExitStack() as stack:
            yield [stack.enter_context(self._open(one)) for one in wanted]

    def _open(self, address: Address) -> LiveServer:
        return LiveServer(address, admin=self.admin, headers=self.headers, certificates=self.certificates)

    def _check(self, wanted: Sequence[Address]) -> None:
        if others := [one for one in self.servers if one not in wanted]:
            where = f"deployed to {', '.join(map(str, wanted))}" if wanted else "not deployed to any server"
            what = f"the tuning was not deployed here: it was {where}"
            raise HostError(others[0], what, f"leave out --server {others[0]}")
        strange = [one for one in wanted if one not in self.servers and not is_loopback(one.target)]
        if strange and self.has_secrets:
            what = "only the record of the tuning names this server, so it does not get your key"
            named = " ".join(f"--server {one}" for one in wanted if not is_loopback(one.target))
            raise HostError(strange[0], what, f"if you deployed to it, run the same command with {named}")
