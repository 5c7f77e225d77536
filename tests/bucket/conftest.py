"""Read the description of S3 once. botocore parses its megabyte of JSON again for every client of every test."""

from collections.abc import Iterator
from functools import lru_cache

import botocore.session
import pytest


@pytest.fixture(scope="package", autouse=True)
def one_loader() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(botocore.session, "create_loader", lru_cache(botocore.session.create_loader))
        yield
