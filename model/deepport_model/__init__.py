"""A DeepSeek-V4 language model, with Engram memories, written once against deepport's operators."""

from deepport_model.loading import load
from deepport_model.model import Model

__all__ = ["Model", "load"]
