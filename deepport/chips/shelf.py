"""Where profiles are: in this package, in the user's folder, or in a file that is named."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from platformdirs import user_data_path
from pydantic import ValidationError

from deepport.chips.profile import Profile
from deepport.errors import BadInput

_SHIPPED = Path(__file__).parent / "data"


def own() -> Path:
    """The folder of the user's own profiles, which come before the shipped ones."""
    return user_data_path("deepport") / "chips"


def profiles() -> Iterator[Profile]:
    """All that can be named: the user's own first, then the shipped ones that they do not replace."""
    mine = [read(path) for path in sorted(own().glob("*.json"))]
    taken = {profile.name for profile in mine}
    yield from mine
    yield from (profile for profile in _shipped() if profile.name not in taken)


def find(chip: str) -> Profile:
    """A profile by its name, by another name that it has, or by its file; BadInput where there is none."""
    if chip.endswith(".json"):
        return read(Path(chip))
    word = chip.lower()
    found = list(profiles())
    for profile in (*(p for p in found if p.name == word), *(p for p in found if word in p.aliases)):
        return profile
    raise BadInput(f"--chip {chip}: is no file that ends in .json, and none of: {', '.join(p.name for p in found)}")


def read(path: Path) -> Profile:
    """A profile from a file; BadInput names the first field that is not as it must be."""
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {field + ': ' if field else ''}{first['msg']}") from None


@cache
def _shipped() -> tuple[Profile, ...]:
    return tuple(read(path) for path in sorted(_SHIPPED.glob("*.json")))
