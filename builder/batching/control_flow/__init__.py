"""Nodes that decide how the walk goes on: constants, branches, loops, sequences and optionals.

What a branch or a loop depends on is known in a model of static shapes, unless it looks at the samples. So a branch is
replaced by the side it takes, and a loop by its iterations, written one after the other. A branch that looks at a
sample becomes both sides and a choice between them. The walk knows the members of a sequence, so the nodes that
handle sequences vanish.

`CONTROL_FLOW` has a handler for each of these operators. A handler is a function from the walk and a node to the
operands of the node's outputs; it may walk other nodes, or a copy of a body, on the way (see `expansion`).
"""

from collections.abc import Mapping

from builder.batching.control_flow import branches, loops, sequences
from builder.batching.walk import Handler, Key

__all__ = ["CONTROL_FLOW"]

CONTROL_FLOW: Mapping[Key, Handler] = {**branches.HANDLERS, **loops.HANDLERS, **sequences.HANDLERS}
"""What walks each operator of control flow."""
