"""Get a model file from a server or a bucket: `https://`, `s3://`, `gs://` and `az://`.

`address` reads the URL, and says it without what is secret in it. `transfer` writes the file into a temporary folder,
within limits of size and time. `fetched` holds its SHA-256 digest against the one that the caller gave, so that nobody
on the way, and nobody who can write there, chooses what is published.
"""

from builder.fetching.address import Address, is_url
from builder.fetching.fetched import fetched, matches_digest

__all__ = ["Address", "fetched", "is_url", "matches_digest"]
