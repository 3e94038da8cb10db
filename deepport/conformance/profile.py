"""What is required of a backend, from little to all."""

from typing import Literal

Profile = Literal["bring-up", "inference", "training"]
PROFILES: tuple[Profile, ...] = ("bring-up", "inference", "training")
"""Each requires all that the one before it does."""
