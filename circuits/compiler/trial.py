"""The trial: a model whose arithmetic is in doubt is run before it is handed out.

Beside it run the interpreter, and a twin: the same circuit compiled plainly in float64. Texts on which the twin does
not do what was declared are no evidence; on all others the model must do what the twin does.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.compiler.basis import Basis
from circuits.compiler.sparse import Sparse
from circuits.language import Declaration, Interpretation, Interpreter, Layout, leading, shortened
from interp.errors import ConfigError

if TYPE_CHECKING:
    from circuits.compiler.model import CompiledTransformer

ALLOWED = 0.1
"""The most that a pattern may differ from the twin's."""

POSITIONS = 2**14
"""About how many positions are run."""

LENGTHS = 8
"""The most lengths of texts, where shorter texts are not the beginnings of longer ones."""


def run_trial(model: "CompiledTransformer", twin: "CompiledTransformer", basis: Basis, advice: str) -> None:
    """Compare a model with its twin and the interpreter.

    Args:
        twin: the circuit in float64, in coordinates.
        basis: where the model has the coordinates.
        advice: what to do about it; the message ends with it.

    Raises `ConfigError`, naming the head or the table that is furthest off, for a prediction that differs, or a pattern
    that differs by more than `ALLOWED`.
    """
    trial = _Trial(model, twin, basis)
    for tokens in trial_texts(model.circuit, max(model.circuit.n_ctx, min(POSITIONS, 2**25 // twin.cfg.d_model))):
        for some in tokens.split(max(1, 2**22 // tokens.shape[1] ** 2)):
            trial.add(some)
    trial.judge(advice)


def trial_texts(circuit: Declaration, n_positions: int) -> list[Int[Tensor, "batch pos"]]:
    """Texts that have every word and every position in them: random ones, half of them made of a few words only.

    Where keys may come later than the query, texts of several lengths; else, every beginning is a shorter text.
    """
    draw, n_ctx = random.Random(0), circuit.n_ctx
    start = [] if circuit.bos is None else [circuit.vocabulary.to_single_token(circuit.bos)]
    words = [i for i in range(circuit.vocabulary.d_vocab) if i not in start] or start
    lengths = {n_ctx}
    if circuit.attention_dir == "bidirectional":
        lengths |= {1 + round(i * (n_ctx - 1) / LENGTHS) for i in range(LENGTHS)}
    deck: list[int] = []

    def dealt() -> int:
        if not deck:
            deck.extend(draw.sample(words, len(words)))
        return deck.pop()

    found = []
    for length in sorted(lengths):
        for_all_words = 2 * -(-len(words) // max(length - len(start), 1)) if length == n_ctx else 2
        n_texts = max(for_all_words, n_positions // (length * len(lengths)))
        texts = []
        for i in range(n_texts):
            few = draw.sample(words, min(len(words), 2 + i % 3))
            rest = range(length - len(start))
            texts.append([*start, *([dealt() for _ in rest] if i % 2 else [draw.choice(few) for _ in rest])][:length])
        found.append(torch.tensor(texts))
    return found


@dataclass(frozen=True)
class _Off:
    """By how much a part is off, and where."""

    size: float
    text: str
    position: int


class _Trial:
    """What was found so far."""

    def __init__(self, model: "CompiledTransformer", twin: "CompiledTransformer", basis: Basis):
        self.model, self.twin = model, twin
        self.interpreter = Interpreter(Layout(model.circuit))
        self.heads: dict[str, _Off] = {}
        self.tables: dict[str, _Off] = {}
        self.wrong = ""
        self._written = {name: neurons.writes.rows.unique() for name, neurons in twin.plan.tables.items()}
        shape = model.plan.encoding.size
        self._reads = {
            name: basis.reads(Sparse.of(rows, torch.arange(len(rows)), torch.ones(len(rows)), (shape, len(rows))))
            for name, rows in self._written.items()
        }

    @torch.no_grad()
    def add(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Run some texts of one length."""
        symbolic = self.interpreter.run(tokens)
        (exact, exact_cache), (logits, cache) = (one.run_with_cache(tokens) for one in (self.twin, self.model))
        kept = self._right(exact.double(), symbolic)
        wrong = kept & ~self._right(logits.double(), symbolic)
        words = self.model.circuit.vocabulary
        if not self.wrong and bool(wrong.any()):
            row, position = (int(i) for i in wrong.nonzero()[0])
            said, right = (self._said(one[row, position]) for one in (logits, exact))
            text = shortened(words.to_string(tokens[row]), 60)
            self.wrong = f"it predicts {said} instead of {right} at position {position} of {text}"
        for name, head in self.model.report.heads.items():
            at = self.twin.report.heads[name]
            pattern = exact_cache["pattern", at.layer][:, at.index]
            off = (cache["pattern", head.layer][:, head.index].double() - pattern).abs().nan_to_num(torch.inf).amax(-1)
            declared = (pattern - symbolic.patterns[name]).abs().amax(-1) < ALLOWED
            self._note(self.heads, name, off * declared, tokens)
        for name, rows in self._written.items():
            layer = self.model.plan.places[name].layer, self.twin.plan.places[name].layer
            found = cache["resid_post", layer[0]].double() @ self._reads[name]
            off = (found - exact_cache["resid_post", layer[1]][..., rows]).abs().nan_to_num(torch.inf).amax(-1)
            self._note(self.tables, name, off * wrong, tokens)

    def _said(self, logits: Float[Tensor, "d_vocab"]) -> str:
        """The words that lead, or None."""
        logits, below = logits.double()[None, None], self.interpreter.nothing_below
        ahead = (leading(logits, below) & (logits >= below))[0, 0].nonzero()[:, 0].tolist()
        return " and ".join(repr(self.model.circuit.vocabulary.words[i]) for i in ahead) or "nothing"

    def _right(self, logits: Float[Tensor, "batch pos d_vocab"], symbolic: Interpretation) -> Bool[Tensor, "batch pos"]:
        """Where these logits predict what was declared: one of the words that lead there, and no other that ties."""
        below = self.interpreter.nothing_below
        said, right = (leading(one, below) & (one >= below) for one in (logits, symbolic.logits))
        return (said.any(-1) == right.any(-1)) & ~(said & ~right).any(-1)

    def _note(
        self, parts: dict[str, _Off], name: str, off: Float[Tensor, "batch pos"], tokens: Int[Tensor, "batch pos"]
    ) -> None:
        if name not in parts or float(off.max()) > parts[name].size:
            row, position = divmod(int(off.argmax()), off.shape[1])
            text = shortened(self.model.circuit.vocabulary.to_string(tokens[row]), 60)
            parts[name] = _Off(float(off.max()), text, position)

    def judge(self, advice: str) -> None:
        """Raise `ConfigError` if something was found."""
        dtype = self.model.cfg.dtype
        for kind, parts, what in (("head", self.heads, "its pattern"), ("mlp", self.tables, "what it writes")):
            worst = max(parts, key=lambda name: parts[name].size, default=None)
            if worst is not None and parts[worst].size > ALLOWED:
                off = parts[worst]
                where = f"by {off.size:.2g} at position {off.position} of {off.text}"
                predicted = f", and {self.wrong}" if self.wrong else ""
                raise ConfigError(f"{kind} {worst!r}: in {dtype} {what} is off {where}{predicted}; {advice}")
        if self.wrong:
            raise ConfigError(f"in {dtype} {self.wrong}; {advice}")
