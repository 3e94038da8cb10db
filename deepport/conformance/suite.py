"""The suite for a test file of a backend's own repository, which holds this line and nothing else:

    from deepport.conformance.suite import *  # noqa: F403

`pytest --deepport-device=D` then has a test for each case.
"""

from deepport.conformance.plugin import Suite

__all__ = ["conformance"]

conformance = Suite()
