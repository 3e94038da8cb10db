"""What every page of ours has: one style, no network, and what is foreign escaped."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deepport.report import words


def environment(package: str, script: str = "") -> Environment:
    """Of the templates in the folder `page` of a package, which begin with `head.html`; `script` is for a page's end."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package, "page"), PackageLoader("deepport.report", "page")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # All that a template prints is foreign until it is said to be markup.
        finalize=lambda value: value if isinstance(value, Markup) else words.printable(str(value)),
    )
    style = files("deepport.report").joinpath("page", "page.css").read_text("utf-8")
    filters: dict[str, Any] = {
        "share": words.share, "duration": words.duration, "count": words.count, "short": words.printable, "day": _day,
    }  # fmt: skip
    made.filters |= filters
    made.globals |= {"style": Markup(style), "script": Markup(script), "policy": _policy(script)}
    return made


def _day(created: str) -> str:
    """`11 February 2027, 09:30 UTC`; what is no time as it is."""
    try:
        return f"{datetime.fromisoformat(created):%-d %B %Y, %H:%M %Z}".strip()
    except ValueError:
        return created


def _policy(script: str) -> str:
    """Nothing is loaded, and no script runs but ours: a second fence behind escaping."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
