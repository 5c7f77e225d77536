"""The commands, one module for each: each reads its options, makes one call and prints the result."""

from builder.cli.commands.adopt import adopt
from builder.cli.commands.configure import configure
from builder.cli.commands.demo import demo
from builder.cli.commands.deploy import deploy
from builder.cli.commands.export import export
from builder.cli.commands.inspect import inspect
from builder.cli.commands.list_ import list_
from builder.cli.commands.prune import prune
from builder.cli.commands.publish import publish
from builder.cli.commands.rollback import rollback
from builder.cli.commands.serve import serve
from builder.cli.commands.switch import switch
from builder.cli.commands.tune import tune
from builder.cli.commands.verify import verify

COMMANDS = (
    publish,
    export,
    inspect,
    list_,
    adopt,
    verify,
    configure,
    switch,
    rollback,
    prune,
    serve,
    deploy,
    tune,
    demo,
)
"""In the order of a model's life, which is the order in docs/cli.md."""

__all__ = ["COMMANDS"]
