"""The page for the day the chip arrives says commands that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from deepport.cli import app

PAGE = Path(__file__).parents[1] / "backends" / "deepport_npu" / "FIRST_DAY.md"
TEXT = PAGE.read_text()
COMMANDS = sorted(
    {" ".join(shlex.split(line, comments=True)) for line in re.findall(r"^\$ deepport (.*)$", TEXT, re.MULTILINE)}
)


def test_there_are_five_steps() -> None:
    assert re.findall(r"^## (\d)\. ", TEXT, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    for step in re.split(r"^## \d\. ", TEXT, flags=re.MULTILINE)[1:]:
        for what in (r"\*\*Proves\*\*", r"\*\*Healthy:\*\*", r"\b[Ss]end\b|doctor\.json"):
            assert re.search(what, step), (what, step.splitlines()[0])


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist_with_their_options(line: str) -> None:
    name, *arguments = line.split()
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    given = {a for a in arguments if a.startswith("--")}
    assert given <= options


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    assert not [link for link in links if not (PAGE.parent / link).exists()]
