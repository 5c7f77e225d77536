"""Find and run Python code of the user's: a factory that makes a module, or a metric.

`calls` reads how it is named, `importing` imports it, `guarding` says where it failed if it raises an exception, and
`printing` keeps what it prints off stdout.
"""

from builder.user_code.calls import Call, parse
from builder.user_code.guarding import UserCode, brief, is_user_code, place_of
from builder.user_code.importing import import_from
from builder.user_code.printing import stdout_on_stderr

__all__ = ["Call", "UserCode", "brief", "import_from", "is_user_code", "parse", "place_of", "stdout_on_stderr"]
