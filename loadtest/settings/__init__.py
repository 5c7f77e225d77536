"""The options of a load test, read from text and checked.

`from_text` returns `Settings`, one value that defines the whole load test, or raises a `SettingsError` that names the
option. `addresses` reads where the server listens and how TLS is spoken there, `headers` what goes
with every request, `contents` what is sent without a repository, `reading` everything else.
"""

from loadtest.settings.addresses import read_address
from loadtest.settings.allowances import Allowance
from loadtest.settings.contents import Contents
from loadtest.settings.headers import read_headers
from loadtest.settings.reading import Limits, ModelChoice, Settings, from_text

__all__ = ["Allowance", "Contents", "Limits", "ModelChoice", "Settings", "from_text", "read_address", "read_headers"]
