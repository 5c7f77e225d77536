"""The page of a tuning, made from the `tune.json` that `python -m builder tune` writes.

`document` reads the file, `charts` draws what was measured and predicted, and `page` puts them and the tables into one
file of HTML, like the report of a load test.
"""

from loadtest.report.tuning.document import Document, read_document
from loadtest.report.tuning.page import to_html, write

__all__ = ["Document", "read_document", "to_html", "write"]
