"""Backends for chips that are not here yet: a porter asks who would serve a model before there is hardware to ask."""

from __future__ import annotations

from deepport import backend
from deepport.errors import BadInput


class OnPaper:
    """A backend for a chip that need not be there: who would serve its calls, and nothing that could.

    Raises BadInput where the backend knows no such chip, or can plan for none.
    """

    runtime = None

    def __init__(self, name: str, chip: str) -> None:
        chosen = backend.get(name)
        ask = getattr(chosen, "on_paper", None)
        if ask is None:
            raise BadInput(f"the {name} backend plans for the devices of this machine only")
        self.name, self.device_type = chosen.name, chosen.device_type
        self.basis, kernels = ask(chip)
        self.kernels = backend.accepted(chosen.name, kernels)
