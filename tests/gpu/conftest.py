"""Triton decides when kernels are imported whether it interprets them: here it does, and in no test of another folder."""

import os
from collections.abc import Iterator

import pytest

INTERPRETED = "TRITON_INTERPRET"

os.environ[INTERPRETED] = "1"


def pytest_collection_finish() -> None:
    """All modules are imported: what the processes of other tests inherit is as it was."""
    os.environ.pop(INTERPRETED, None)


@pytest.fixture(scope="package", autouse=True)
def interpreted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(INTERPRETED, "1")
        yield
