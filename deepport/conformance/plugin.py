"""The pytest plugin: the options with which a third party's repository runs the suite in its own CI.

Every pytest of the environment loads this module, so it imports neither torch nor pydantic, and does nothing until
`--deepport-device` is given. `deepport.conformance.session` then does the work.
"""

from __future__ import annotations

from typing import Any

import pytest

from deepport.conformance.profile import PROFILES

SESSION = "deepport-conformance"
"""The name under which the session's part of this plugin is registered."""


class Suite:
    """What `deepport.conformance.suite` puts into a test module, and pytest finds there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("deepport", "deepport's conformance suite, in a test file that imports it")
    group.addoption("--deepport-device", metavar="D", help="run it on this device, as deepport conform --device does")
    group.addoption(
        "--deepport-profile",
        choices=PROFILES,
        default="inference",
        help="what is required of the backend: %(choices)s; default %(default)s",
    )
    group.addoption(
        "--deepport-operator", metavar="NAME", action="append", default=[], help="only this operator; repeatable"
    )
    group.addoption("--deepport-mutants", action="store_true", help="also run deliberately wrong implementations")
    group.addoption(
        "--deepport-timeout", metavar="SECONDS", type=float, default=60.0, help="of a case; default %(default)s"
    )
    group.addoption("--deepport-report", metavar="FILE", help="write the record of deepport conform --json")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("deepport_device") is not None:
        from deepport.conformance.session import session_of

        config.pluginmanager.register(session_of(config), SESSION)


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[pytest.Item] | None:
    if not isinstance(obj, Suite):
        return None
    session: Any = collector.config.pluginmanager.get_plugin(SESSION)
    if session is None:
        raise collector.CollectError(
            "the conformance suite needs a device: pytest --deepport-device=D; deepport backends lists what there is"
        )
    found: list[pytest.Item] = session.collect(collector)
    return found
