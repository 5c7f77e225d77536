"""A run: its stages led, its load made, its figures measured."""
