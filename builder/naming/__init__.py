"""Name the inputs and outputs of a model, and keep those names from version to version.

`rename` chooses the names and applies them to the graph. The names of the first version are a contract with its
clients. `stable` finds names for a first version: it keeps what a person chose and drops what an exporter counted.
`contract` finds out which tensor of a later version is which tensor of the version that is served.
"""

from builder.naming.contract import Contract
from builder.naming.renaming import rename
from builder.naming.stable import stable_name

__all__ = ["Contract", "rename", "stable_name"]
