"""Saving: what is written loads again bit for bit, here and in transformers; and the old checkpoint survives any failure."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deepport.errors import BadInput, DeepportError
from deepport_model.checkpoint import load_weights, read_config, save_weights


def chosen(owner: str) -> str | None:
    """DeepSeek's formats, with smaller blocks."""
    if owner.endswith("experts") or owner == "head":
        return "mxfp4"
    return "fp8_e4m3:1x32" if "table" in owner else "fp8_e4m3:16x16" if "attn" in owner else "int8:row"


@pytest.mark.parametrize("naming", ["deepseek", "transformers"])
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("shard", [10**9, 20_000])
def test_round_trip(tmp_path: Path, standins: Any, naming: Any, quantised: bool, shard: int) -> None:
    config = replace(standins.config, engram=standins.engram)
    model = standins.filled(config, torch.bfloat16)
    model = standins.quantise(model, chosen) if quantised else model
    steps: list[tuple[int, int]] = []
    where = tmp_path / "deep" / "model"
    save_weights(model, config, where, naming=naming, shard_bytes=shard, progress=lambda *step: steps.append(step))
    found = standins.standin(config)
    load_weights(found, where)
    standins.same(found, model)
    assert read_config(where) == config
    files = sorted(where.glob("*.safetensors"))
    assert steps[-1][0] == steps[-1][1] == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert (len(files) > 5) == (where / "model.safetensors.index.json").exists() == (shard == 20_000)
    for file in files:
        tensors = load_file(file).values()
        assert len(tensors) == 1 or sum(t.numel() * t.element_size() for t in tensors) <= shard
    assert sorted(p.name for p in tmp_path.rglob("*") if ".new" in p.name or ".old" in p.name) == []


@pytest.mark.parametrize("naming", ["deepseek", "transformers"])
def test_transformers_loads_it(tmp_path: Path, standins: Any, naming: Any) -> None:
    from transformers import DeepseekV4ForCausalLM

    model = standins.filled()
    save_weights(model, standins.config, tmp_path / "ours", naming=naming, shard_bytes=100_000)
    theirs, report = DeepseekV4ForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    theirs.save_pretrained(tmp_path / "theirs")
    found = standins.standin()
    load_weights(found, tmp_path / "theirs")
    standins.same(found, model)


def test_quantisation_is_declared(tmp_path: Path, standins: Any) -> None:
    save_weights(standins.quantise(standins.filled(), chosen), standins.config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == {
        "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16], "expert_dtype": "fp4"
    }  # fmt: skip


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes: the write fails as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_things_as_they_were(tmp_path: Path, standins: Any, existing: bool) -> None:
    where = tmp_path / "model"
    if existing:
        save_weights(standins.filled(), standins.config, where)
    before = snapshot(tmp_path)
    with small_disk(50_000), pytest.raises(DeepportError) as caught:
        save_weights(standins.filled(seed=1), standins.config, where)
    assert str(caught.value) == f"{where}: cannot be written: File too large; what was there is unchanged"
    assert snapshot(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"] * existing


def test_interruption(tmp_path: Path, standins: Any) -> None:
    save_weights(standins.filled(), standins.config, tmp_path / "model")
    before = snapshot(tmp_path)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_weights(standins.filled(seed=1), standins.config, tmp_path / "model", progress=interrupt)
    assert snapshot(tmp_path) == before


def test_a_failing_swap_puts_the_old_one_back(tmp_path: Path, standins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(standins.filled(), standins.config, tmp_path / "model")
    before, rename = snapshot(tmp_path), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DeepportError, match=r"cannot be written: Input/output error; what was there is unchanged$"):
        save_weights(standins.filled(seed=1), standins.config, tmp_path / "model")
    assert snapshot(tmp_path) == before


def test_an_old_checkpoint_is_replaced_whole(tmp_path: Path, standins: Any) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    where = tmp_path / "model"
    save_weights(standins.filled(), standins.config, where, shard_bytes=20_000, tokenizer=tmp_path / "tokenizer.json")
    assert (where / "tokenizer.json").read_text() == "{}"
    save_weights(standins.filled(seed=1), standins.config, where)
    assert sorted(p.name for p in where.iterdir()) == ["config.json", "model.safetensors"]
    found = standins.standin()
    load_weights(found, where)
    standins.same(found, standins.filled(seed=1))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"thesis.tex": ""}, "holds thesis.tex, which a checkpoint would replace; give an empty directory"),
        ({"config.json": "{}", "model.safetensors": ""},
         "holds a checkpoint that deepport did not write; give an empty directory"),
        ({"model.safetensors": ""}, "holds a checkpoint that deepport did not write; give an empty directory"),
        ({"config.json": '{"written_by": "deepport"}', "README.md": ""},
         "holds README.md, which a checkpoint would replace; give an empty directory"),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_not_replaced(tmp_path: Path, standins: Any, files: dict[str, str], line: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput) as caught:
        save_weights(standins.filled(), standins.config, tmp_path)
    assert str(caught.value) == f"{tmp_path}: {line}"
    assert {name: text.decode() for name, text in snapshot(tmp_path).items()} == files


def test_bad_arguments(tmp_path: Path, standins: Any) -> None:
    (tmp_path / "file").touch()
    for options, line in (
        ({"directory": tmp_path / "file"}, f"{tmp_path}/file: is a file; give a directory to write to"),
        ({"directory": tmp_path / "x", "tokenizer": tmp_path / "y"},
         f"{tmp_path}/y: is not a file; give the tokenizer.json to copy"),
    ):  # fmt: skip
        with pytest.raises(BadInput) as caught:
            save_weights(standins.filled(), standins.config, **options)
        assert str(caught.value) == line
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
