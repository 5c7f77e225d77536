"""The server under test: what it serves, and what it counts."""
