"""The whole-model part of a run: load, quantise, set peers beside it, and measure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deepport.bench import model as whole
from deepport.bench.contest import Outcome
from deepport.bench.limits import Limits
from deepport.bench.peers import logits
from deepport.bench.peers.process import PeerFailed, PeerProcess, Start
from deepport.bench.quantised import Formats, quantise
from deepport.bench.result import Peer
from deepport.bench.timing import Budget, Stopwatch
from deepport.errors import BadInput
from deepport_model import Model, load
from deepport_model.transformer import CHUNK

if TYPE_CHECKING:
    from deepport.bench.run import Found, Listener

MODULES = {"transformers": "deepport.bench.peers.transformers", "llama.cpp": "deepport.bench.peers.llama_cpp"}
_IMPORTS = {"transformers": "transformers", "llama.cpp": "llama_cpp"}


@dataclass(frozen=True)
class Asked:
    """A model and what to measure of it.

    Attributes:
        name: a preset, or a checkpoint's directory.
        device: as `deepport.load` takes it.
        dtype: None for a checkpoint's own.
        format: `EXPERTS+DENSE` (`deepport.bench.quantised`).
        prefill: lengths of prompts; `depths`: tokens before those that are decoded, `tokens` of these.
        peers: by name.
    """

    name: str
    device: str
    dtype: str | None
    format: str
    prefill: tuple[int, ...]
    depths: tuple[int, ...]
    tokens: int
    peers: tuple[str, ...]

    @property
    def capacity(self) -> int:
        """Tokens that a sequence comes to have."""
        sampled = logits.PROMPT + logits.STEPS if self.peers else 0
        return max(sampled, *self.prefill, *(d + self.tokens + 2 + whole.SETTLING for d in self.depths))

    def check(self) -> None:
        """Raises BadInput for what can be known to fail before anything is measured."""
        Formats.parse(self.format)
        for name in self.peers:
            if find_spec(_IMPORTS[name]) is None:
                raise BadInput(f"--against {name}: {import_module(MODULES[name]).MISSING}")


class Wholes:
    """One model's figures."""

    def __init__(self, asked: Asked, rounds: int, limits: Limits, stopwatch: Stopwatch, found: Found) -> None:
        asked.check()
        self._asked, self._rounds, self._limits, self._stopwatch, self._found = asked, rounds, limits, stopwatch, found

    @property
    def count(self) -> int:
        return len(self._asked.prefill) + len(self._asked.depths)

    def run(self, folder: Path, stack: ExitStack, seconds: float, listener: Listener) -> None:
        asked = self._asked
        listener.doing(f"loading {asked.name}")
        model = load(asked.name, asked.device, asked.dtype)
        quantise(model.transformer, Formats.parse(asked.format))
        ours = whole.Ours(model.transformer, asked.capacity, CHUNK, self._stopwatch)
        peers = self._peers(model, ours, folder, stack, listener)
        bench = whole.Bench(asked.name, model, asked.format, CHUNK, self._limits, ours, peers)
        budget, left = Budget(seconds), self.count
        for tokens in sorted(asked.prefill):
            name, of = f"{asked.name} prefill {tokens}", tokens * 2
            self._figure(bench, name, of, budget.part(left), budget, listener, self._prefill(bench, tokens))
            left -= 1
        for depth in sorted(asked.depths):
            name = f"{asked.name} decode at {depth}"
            self._figure(bench, name, depth, budget.part(left), budget, listener, self._decode(bench, depth))
            left -= 1

    def _prefill(self, bench: whole.Bench, tokens: int) -> Callable[[Callable[[], bool]], Outcome]:
        return lambda over: whole.prefill(bench, tokens, self._rounds, over)

    def _decode(self, bench: whole.Bench, depth: int) -> Callable[[Callable[[], bool]], Outcome]:
        return lambda over: whole.decode(bench, depth, self._asked.tokens, over)

    def _figure(
        self, bench: whole.Bench, name: str, reads: int, over: Callable[[], bool], budget: Budget, listener: Listener,
        measure: Callable[[Callable[[], bool]], Outcome],
    ) -> None:  # fmt: skip
        listener.doing(name)
        needed, left = bench.seconds_to_read(reads), budget.left
        if left <= max(needed, 0.0):
            why = (
                f"reading its tokens takes {needed:.0f} s of the {left:.0f} s left" if left > 0 else "no time was left"
            )
            self._found.left_out.append(f"{name}: {why}; --seconds gives more")
            listener.found(None)
            return
        before = len(self._found.figures)
        self._found.take(name, measure(over))
        listener.found(self._found.figures[-1] if len(self._found.figures) > before else None)

    def _peers(
        self, model: Model, ours: whole.Ours, folder: Path, stack: ExitStack, listener: Listener
    ) -> dict[str, PeerProcess]:
        if not self._asked.peers:
            return {}
        ids = whole.drawn(model.config.vocab_size, logits.PROMPT + logits.STEPS)
        listener.doing("our logits, for the peers to be compared with")
        with torch.inference_mode(), model.session():
            mine = logits.sample(ours, ids)
            wide = whole.Ours(whole.exact(model.transformer), len(ids), CHUNK, self._stopwatch)
            true = logits.sample(wide, ids)
        found = {}
        for name in self._asked.peers:
            listener.doing(f"setting up {name}")
            if (peer := self._seat(name, model, folder / name, stack, ids, mine, true)) is not None:
                found[name] = peer
        return found

    def _seat(
        self, name: str, model: Model, folder: Path, stack: ExitStack, ids: list[int], *ours: Any
    ) -> PeerProcess | None:
        """A peer whose logits are ours, or None; what was found out about it is in the report."""
        folder.mkdir()
        about = Peer(name=name)
        peer = None
        try:
            import_module(MODULES[name]).write(model.transformer, folder)
            peer = PeerProcess(Start(MODULES[name], folder, torch.get_num_threads(), self._asked.capacity, CHUNK))
            stack.callback(peer.close)
            about = about.model_copy(update={"version": peer.version, "settings": peer.settings})
            compared = logits.compare(logits.sample(peer, ids), *ours)
            about = about.model_copy(update={"difference": compared.difference, "allowed": compared.allowed})
            if not compared.same:
                raise PeerFailed(
                    f"its logits differ from ours by {compared.difference:.2g}, and rounding explains {compared.allowed:.2g} "
                    f"(ours differ from float32 by {compared.own:.2g})"
                )
        except (PeerFailed, BadInput) as error:
            about, peer = about.model_copy(update={"refused": str(error)}), None
        self._found.peers.append(about)
        return peer
