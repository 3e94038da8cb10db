"""What is made of triton-ascend's own ends: a crash that comes and goes is no refusal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from deepport_triton.ahead import ascend


def ending(*codes: int) -> Callable[..., str]:
    """A lowering by a tool that ends with these codes, one after another, and then succeeds."""
    left = list(codes)

    def lowered(*job: object) -> str:
        if left:
            raise subprocess.CalledProcessError(left.pop(0), "triton-adapter-opt", stderr=b"error: pages")
        return "module {}"

    return lowered


def test_a_crash_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascend, "_lowered", ending(-11, -11))
    assert ascend.linalg(None, {}, "Ascend910B2") == "module {}"


@pytest.mark.parametrize(
    ("codes", "told"),
    [((-11, -11, -11), "the compiler crashes: SIGSEGV, 3 times of 3"), ((1,), "error: pages"), ((-6,), "error: pages")],
)
def test_what_stays_is_a_refusal(monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...], told: str) -> None:
    monkeypatch.setattr(ascend, "_lowered", ending(*codes))
    with pytest.raises(ascend.Refused, match=told):
        ascend.linalg(None, {}, "Ascend910B2")
