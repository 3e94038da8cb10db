"""README says what is true."""

import re
from pathlib import Path

import pytest

from deepport import support

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_support_table_is_the_generated_one() -> None:
    assert support.replace(TEXT, support.table()) == TEXT, (
        "run python -m deepport.support and put its table into README"
    )


def test_the_first_screen_has_the_two_commands() -> None:
    first = "\n".join(TEXT.splitlines()[:40])
    for command in ("ci/demo", "ci/test"):
        assert f"./{command}" in first
        assert (ROOT / command).stat().st_mode & 0o100, f"{command} has no run bit"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(import deepport\n.*?)```", TEXT, re.DOTALL)
    exec(compile(example, "README.md", "exec"), names := {})
    assert names["logits"].shape[:2] == (1, 3)
    printed = capsys.readouterr().out
    assert "cpu" in printed
    assert "torch_npu is not installed" in printed


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_no_vendor_is_named_in_the_model() -> None:
    word = re.compile(r"\b(cuda|npu|rocm|ascend|torch_npu|triton|nvidia)\b", re.IGNORECASE)
    files = list((ROOT / "model").rglob("*.py"))
    assert files
    assert not [path for path in files if word.search(path.read_text())]
