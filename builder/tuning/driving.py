"""Run `python -m loadtest` as a process of its own, and read what it measured."""
