"""The result of a run: its verdict, its files, and the page that shows it."""
