"""Random weights in the formats of checkpoints, and back."""

import copy
from dataclasses import replace

import pytest
import torch

from bench import tiny
from deepport import formats
from deepport.bench.quantised import Formats, dequantised, quantise
from deepport.errors import BadInput
from deepport_model.config import EngramConfig
from deepport_model.modules import Linear
from deepport_model.moe import Experts
from deepport_model.transformer import Transformer, initialize


@pytest.mark.parametrize(
    ("text", "experts", "dense"),
    [("plain", "plain", "plain"), ("mxfp4+int8", "mxfp4", "int8:row"), ("fp8", "fp8_e4m3:128x128", "plain")],
)
def test_formats_by_their_words(text: str, experts: str, dense: str) -> None:
    assert Formats.parse(text) == Formats(experts, dense)


@pytest.mark.parametrize("text", ["", "int3", "mxfp4+q4_k", "mxfp4+int8+fp9"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is none of plain, fp8, int8, mxfp4"):
        Formats.parse(text)
    assert Formats.parse("mxfp4+") == Formats("mxfp4")


def test_tables_have_formats_whose_blocks_lie_within_a_row() -> None:
    assert Formats.parse("plain+int8+fp8").tables == "fp8_e4m3:1x32"
    with pytest.raises(BadInput, match="names 4 formats; there are experts, dense layers and tables"):
        Formats.parse("fp8+fp8+fp8+fp8")
    engram = EngramConfig(layer_ids=(1,), engram_vocab_size=(90, 90), compressed_vocab_size=96, n_embed_per_ngram=256)
    config = replace(tiny.CONFIG, engram=engram)
    plain = initialize(Transformer(config)).eval()
    model = quantise(copy.deepcopy(plain), Formats.parse("plain+plain+fp8"))
    table = model.get_submodule("layers.1.engram.table")
    assert table.rows.dtype == torch.float8_e4m3fn and model.get_submodule("layers.1.attn.wq_a").format == "plain"
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        near, far, same = model(ids), plain(ids), dequantised(model, torch.float32)(ids)
    assert 0 < float((near - far).norm() / far.norm()) < 0.1
    assert float((near - same).norm() / same.norm()) < 1e-5


def test_every_weight_is_quantised_and_computes() -> None:
    plain, model = tiny.transformer(), quantise(tiny.transformer(), Formats.parse("mxfp4+int8"))
    for module in model.modules():
        if isinstance(module, Experts):
            assert (module.format, module.w13.dtype, module.w2.dtype) == ("mxfp4", torch.int8, torch.int8)
            formats.check(module.w13, module.w13_scale, "mxfp4")
        elif isinstance(module, Linear):
            assert (module.format, module.weight.dtype) == ("int8:row", torch.int8)
    assert model.embed.weight.dtype == torch.float32
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        near, far = model(ids), plain(ids)
    assert near.isfinite().all()
    assert 0 < float((near - far).norm() / far.norm()) < 0.9


def test_dequantised_is_the_same_model_and_the_original_stays() -> None:
    model = quantise(tiny.transformer(), Formats.parse("mxfp4+int8"))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    same = dequantised(model, torch.float32)
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        a, b = model(ids), same(ids)
    assert float((a - b).norm() / b.norm()) < 1e-5
    assert same.embed.weight is model.embed.weight, "what was plain is shared"
    assert all(m.format == "plain" for m in same.modules() if isinstance(m, (Linear, Experts)))
    assert model.state_dict().keys() == before.keys()
    assert all(
        torch.equal(t.view(torch.uint8), before[n].view(torch.uint8)) for n, t in model.state_dict().items() if t.dim()
    )


def test_blocks_over_two_groups_are_refused() -> None:
    with pytest.raises(BadInput, match=r"wo_a has groups of 32 rows, which blocks of fp8_e4m3:128x128 would straddle"):
        quantise(tiny.transformer(), Formats.parse("plain+fp8"))
