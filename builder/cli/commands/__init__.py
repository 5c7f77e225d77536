"""The commands, one module for each group: each reads its options, makes one call and prints the result."""

from builder.cli.commands.publish import publish
from builder.cli.commands.pytorch import export
from builder.cli.commands.repository import inspect, list_, prune, rollback, verify
from builder.cli.commands.servers import demo, deploy, serve

COMMANDS = (publish, export, inspect, list_, verify, rollback, prune, serve, deploy, demo)
"""In the order of a model's life, which is the order in docs/cli.md."""

__all__ = ["COMMANDS"]
