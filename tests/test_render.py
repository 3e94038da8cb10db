"""Tables and numbers for people."""

import io

import pytest

from deepport.command.render import fields, ranges, scaled, show


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"), (1, "1 B"), (999, "999 B"), (999.4, "999 B"), (999.6, "1 kB"), (1000, "1 kB"), (1234, "1.23 kB"),
        (999_600, "1 MB"), (25_325_268_992, "25.3 GB"), (284e9, "284 GB"), (6.29e12, "6.29 TB"), (5e21, "5e+03 EB"),
    ],
)  # fmt: skip
def test_scaled(value: float, text: str) -> None:
    assert scaled(value, "B") == text


def test_scaled_without_a_unit() -> None:
    assert (scaled(12), scaled(4.84e12)) == ("12", "4.84 T")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""), ([3], "3"), ([0, 1], "0-1"), ([0, 2], "0,2"), ([0, 1, 5], "0-1,5"), ([2, 4, 6], "2-6/2"),
        ([6, 4, 2], "2-6/2"), ([0, 1, 2, 4, 6, 8], "0-2,4-8/2"), (range(43), "0-42"), ([0, 3, 9], "0,3,9"),
    ],
)  # fmt: skip
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_a_piped_table_is_plain_and_never_wrapped() -> None:
    out, reason = io.StringIO(), "[bold] because " * 40
    show(("name", ">calls", "why"), [("a", "5", reason), ("long name", "1234", "")], out, "title")
    title, head, first, second = out.getvalue().splitlines()
    assert title == "title"
    assert head == "name       calls  why"
    assert first == f"a              5  {reason}".rstrip()
    assert second == "long name   1234"


def test_a_table_on_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    show(("name", "why"), [("a", "because " * 20)], out)
    assert "\x1b[1m" in out.getvalue()
    assert len(out.getvalue().splitlines()) > 3


def test_fields_are_aligned() -> None:
    out = io.StringIO()
    fields((("device", "cpu"), ("first token", "0.1 s")), out)
    assert out.getvalue() == "device       cpu\nfirst token  0.1 s\n"
