"""Profiles of chips: those in the package, a user's own, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Deepport
from hypothesis import given
from hypothesis import strategies as st

from deepport.chips import shelf
from deepport.chips.profile import Number, Profile, Source
from deepport.errors import BadInput

NAMED = "910b2 910b3 910b4 910c 950pr 950dt h100 h20 a100 rtx-5090 mi300x mi355x k100-ai mlu370-x8 mtt-s4000 metax-c500 kunlun-2"


def made(**fields: Any) -> dict[str, Any]:
    """A profile as its file has it."""
    base = {
        "name": "one", "title": "One", "vendor": "Acme", "sources": {"page": {"title": "Data sheet", "by": "vendor"}},
        "memory": {"value": 8e9, "source": "page"},
    }  # fmt: skip
    return base | fields


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "chips"
    folder.mkdir()
    monkeypatch.setattr(shelf, "own", lambda: folder)
    return folder


def test_every_chip_is_there_and_every_number_has_a_source(mine: Path) -> None:
    found = {profile.name: profile for profile in shelf.profiles()}
    assert set(NAMED.split()) <= found.keys()
    for profile in found.values():
        numbers = dict(profile.numbers())
        assert numbers, f"{profile.name} says nothing"
        assert all(profile.sources[number.source].title for number in numbers.values())


@pytest.mark.parametrize(("name", "of"), [("910b", "910b2"), ("910B", "910b2"), ("950", "950pr"), ("H100", "h100")])
def test_chips_have_other_names(mine: Path, name: str, of: str) -> None:
    assert shelf.find(name).name == of


def test_no_name_means_two_chips(mine: Path) -> None:
    names = [name for profile in shelf.profiles() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))


def test_known_numbers() -> None:
    """Against the vendors' own pages, in other units."""
    h100, mi300x = shelf.find("h100"), shelf.find("mi300x")
    assert h100.flops["bfloat16"].value == pytest.approx(1978.9e12 / 2, rel=1e-3)  # the page's number is with sparsity
    assert mi300x.flops["fp8"].value == pytest.approx(2 * mi300x.flops["bfloat16"].value, rel=1e-3)
    assert shelf.find("910b").memory == Number(value=64 * 2**30, source="msmodeling")
    assert shelf.find("mtt-s5000").link is None, "unknown stays unknown"


def test_the_fastest_arithmetic_is_one_that_holds_the_weights() -> None:
    h100, ascend = shelf.find("h100"), shelf.find("910b")
    assert h100.fastest("fp4") == ("fp8", 1978.9e12), "no FP4 there: FP8 holds its values"
    assert ascend.fastest("fp4") == ("float16", 376e12)
    assert ascend.fastest("bfloat16") == ("bfloat16", 353.9e12), "float16 is faster, and does not hold them"
    assert ascend.fastest("int8") == ("int8", 752e12)
    assert shelf.find("k100-ai").fastest("bfloat16") is None


def test_a_profile_of_your_own_comes_first(mine: Path, command: Deepport, tmp_path: Path) -> None:
    (mine / "h100.json").write_text(json.dumps(made(name="h100", title="Mine")))
    assert shelf.find("h100").title == "Mine"
    assert sum(profile.name == "h100" for profile in shelf.profiles()) == 1
    (tmp_path / "x.json").write_text(json.dumps(made()))
    assert shelf.find(str(tmp_path / "x.json")).name == "one"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"memory": {"value": 8e9, "source": "nobody"}}, "source 'nobody' is not among sources"),
        ({"memory": {"value": -1, "source": "page"}}, "memory.value: Input should be greater than 0"),
        ({"memory": {"value": 8e9}}, "memory.source: Field required"),
        ({"speed": 1}, "speed: Extra inputs are not permitted"),
        ({"memory": None}, "source 'page' is of no number"),
        ({"flops": {"fp8": {"value": 1, "source": "page"}}, "lacks": ["fp8"]}, "flops has fp8, and lacks says"),
        ({"flops": {"fp3": {"value": 1, "source": "page"}}}, "flops.fp3"),
    ],
)  # fmt: skip
def test_what_is_no_profile_is_refused_by_its_field(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(made(**fields)))
    with pytest.raises(BadInput) as error:
        shelf.read(tmp_path / "x.json")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_chip_that_is_not_there_names_those_that_are(mine: Path, command: Deepport) -> None:
    ended = command("chips", "h1000")
    assert ended.code == 2
    assert ended.err.startswith("deepport: --chip h1000: is no file that ends in .json, and none of: 910b2, 910b3")
    assert command("chips", "no.json").err.startswith("deepport: no.json: cannot be read: No such file")


@given(st.floats(1e-9, 1e30), st.sampled_from(["memory", "bandwidth", "link", "launch"]))
def test_a_profile_is_read_as_it_was_written(value: float, field: str) -> None:
    source = Source(title="Some page", by="press", address="https://example.org", date="2026-01")
    profile = Profile.model_validate(
        {"name": "x", "title": "X", "vendor": "Y", "sources": {"s": source}, field: Number(value=value, source="s")}
    )
    assert Profile.model_validate_json(profile.model_dump_json(exclude_defaults=True)) == profile


def test_the_list_shows_what_is_unknown_and_what_is_not_there(mine: Path, command: Deepport) -> None:
    ended = command("chips")
    assert (ended.code, ended.err) == (0, "")
    rows = {line.split()[0]: line for line in ended.out.splitlines() if line.split()}
    assert "989 TOP/s" in rows["h100"] and rows["h100"].split()[-3] == "-"
    assert rows["k100-ai"].count("?") == 6
    assert str(mine) in ended.out


def test_one_chip_is_shown_with_its_sources(mine: Path, command: Deepport) -> None:
    out = command("chips", "910b").out
    assert "flops bfloat16   354 TOP/s  msmodeling" in out
    assert "not published: cache, link, launch, host_memory" in out
    assert "https://github.com/Ascend/msmodeling" in out
    found = json.loads(command("chips", "910b", "--json").out)
    assert Profile.model_validate(found) == shelf.find("910b")
    assert len(json.loads(command("chips", "--json").out)) == len(list(shelf.profiles()))
