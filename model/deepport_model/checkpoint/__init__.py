"""Checkpoints: config.json and safetensors files, in every naming and number format of DeepSeek-V4."""

from deepport_model.checkpoint.config import read_config, write_config

__all__ = ["read_config", "write_config"]
