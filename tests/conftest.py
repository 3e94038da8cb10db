"""What all tests share: one thread per process, and a real distribution with a backend in a temporary folder."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import Deepport, Ended
from distributions import forget_backends, forget_modules, write_distribution
from hypothesis import settings

if TYPE_CHECKING:
    from deepport.kernel import Kernel

# With pytest-xdist the processes share the cores, and spinning threads would only wait. Nothing above imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

Distribution = Callable[..., Path]
Kernels = Callable[..., None]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Under a shell's `&` this process ignores SIGINT, and what it starts would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def records(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor write the machine's own conformance records."""
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and every kind of layer, and a tokenizer of bytes and some words."""
    from deepport_model.checkpoint import save_weights
    from deepport_model.config import Config
    from deepport_model.demo.vocabulary import train_tokenizer
    from deepport_model.transformer import Transformer, initialize

    config = Config(
        vocab_size=320, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, head_dim=32, qk_rope_head_dim=8,
        q_lora_rank=32, o_groups=2, o_lora_rank=32, compress_ratios=(0, 4, 128, 4), hash_layers=(True, False, False, False),
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, index_n_heads=4, index_head_dim=16, index_topk=8,
        hc_mult=2, bos_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    train_tokenizer(["the words of the text, naïve naïve 中文"] * 4, 280, folder / "tokenizer.json")
    save_weights(initialize(Transformer(config)), config, folder / "model", tokenizer=folder / "tokenizer.json")
    return folder / "model"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Deepport:
    """`deepport ...` in this process, with `stdin` piped in."""
    from deepport import cli

    def call(*arguments: object, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["deepport", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def cpu_kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """`cpu_kernels(*kernels)`: until the test ends, these are the CPU's kernels in this process, and no others."""
    from deepport import backend

    def use(*kernels: "Kernel") -> None:
        monkeypatch.setattr(backend.start("cpu"), "kernels", backend.accepted("cpu", kernels))

    return use


@pytest.fixture
def distribution(tmp_path: Path) -> Distribution:
    """Write a distribution that publishes `deepport_<name>:backend` as the backend `name`; returns its folder."""

    def write(name: str, source: str, module: str = "", entry: str = "backend") -> Path:
        write_distribution(tmp_path / "site", name, source, module, entry)
        return tmp_path / "site"

    return write


@pytest.fixture
def install(distribution: Distribution, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribution]:
    """`distribution`, and this process finds it until the test ends."""
    modules = set(sys.modules)

    def write(name: str, source: str, module: str = "", entry: str = "backend") -> Path:
        folder = distribution(name, source, module, entry)
        if str(folder) not in sys.path:
            monkeypatch.syspath_prepend(folder)
        forget_backends()
        return folder

    yield write
    monkeypatch.undo()
    forget_backends()
    forget_modules(modules)
