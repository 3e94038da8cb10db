"""Sessions that decide who serves, for tests that compare."""

from deepport.policy import Session


class Watching(Session):
    """Sees every call: none is replayed."""

    watches = True


class References(Session):
    """Knows no backend's kernels."""

    def _backend(self, *_: object) -> None:
        return None
