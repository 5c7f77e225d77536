"""Tests of repositories in buckets. A package, so that mypy knows its `conftest` from the one above it."""
