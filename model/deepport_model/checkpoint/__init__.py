"""Checkpoints: config.json and safetensors files, in every naming and number format of DeepSeek-V4."""

from deepport_model.checkpoint.config import read_config, write_config
from deepport_model.checkpoint.load import Loaded, load_weights, shape_weights
from deepport_model.checkpoint.save import save_weights

__all__ = ["Loaded", "load_weights", "read_config", "save_weights", "shape_weights", "write_config"]
