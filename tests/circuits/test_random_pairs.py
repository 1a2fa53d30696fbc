"""Random circuits with a source, other ones in every session: what is compiled does what the interpreter says."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from grid import SEED
from jaxtyping import Int
from torch import Tensor

from circuits import Circuit, EncoderDecoder, Form, Space, copy, match, shift
from circuits.language import Builder, Interpretation, Interpreter
from interp.errors import InterpError

N = 60
"""How many circuits are compared in every session."""

WORDS = "!abc"


class Author:
    """Declares one circuit.

    Attributes:
        known: the spaces of each side that hold one label, or none.
        idle: those that nothing reads yet.
        features: what of the language it used.
    """

    def __init__(self, rng: random.Random):
        self.rng, self.features = rng, set[str]()
        bos = "!" if rng.random() < 0.8 else None
        direction = rng.choice(("bidirectional", "causal"))
        self.source = Circuit(WORDS, rng.randint(1, 5), bos=bos, attention_dir=direction)
        self.c = EncoderDecoder(self.source, WORDS, rng.randint(1, 5), bos="!")
        self.known: dict[Builder, list[Space]] = {one: [one.tok, one.pos] for one in (self.source, self.c)}
        self.idle: dict[Builder, list[Space]] = {one: [] for one in (self.source, self.c)}
        for _ in range(rng.randint(0, 2)):
            self.part(self.source, self.source)
        for _ in range(rng.randint(0, 2)):
            self.part(self.c, rng.choice((self.c, self.source)))
        self.head(self.c, self.source, self.c.out)
        for side, idle in self.idle.items():
            for space in idle.copy():
                self.head(self.c, side, self.c.out, space)

    def space(self, c: Builder) -> Space:
        """A space that is read now, most often one that nothing reads yet."""
        idle = self.idle[c] if self.rng.random() < 0.7 else []
        chosen = self.rng.choice(idle or self.known[c])
        self.idle[c] = [one for one in self.idle[c] if one is not chosen]
        return chosen

    def part(self, c: Builder, keys: Builder) -> None:
        """A head or a table, which writes a space of its own."""
        name = f"s{len(c.spaces)}"
        if self.rng.random() < 0.3:
            reads = list(dict.fromkeys([self.space(c), self.space(c)]))
            target = c.space(name, "xyz")
            say = {pair: self.rng.choice("xyz") for pair in zip(*(one.labels for one in reads), strict=False)}
            c.mlp(f"table {name}", reads, target, lambda *key: say.get((*key,)))
            self.features.add("table")
        else:
            source = self.space(keys)
            target = c.space(name, source)
            self.head(c, keys, target, source)
        self.known[c].append(target)
        self.idle[c].append(target)

    def head(self, c: Builder, keys: Builder, target: Space, source: Space | None = None) -> None:
        """A head of `c` whose keys are those of `keys`."""
        rng = self.rng
        source = source or self.space(keys)
        qk = Form()
        for _ in range(rng.randint(0, 2)):
            query, key = self.space(c), self.space(keys)
            same = set(query.labels) == set(key.labels)
            relation = rng.choice([None, shift(rng.choice((-1, 0, 1)))]) if same else self.relation(query, key)
            qk = qk + rng.choice((1, 1, 0.5, -1)) * match(query, key, relation)
        ties = "mean" if target is self.c.out and rng.random() < 0.5 else rng.choice(("latest", "first"))
        relation = None if set(source.labels) == set(target.labels) else self.relation(source, target)
        declare = c.cross if keys is not c else c.head
        declare(f"h{len(c.parts)}", qk=qk, ov=copy(source, target, relation), ties=ties)
        self.features |= {
            "cross head" if keys is not c else f"head of the {'source' if c is self.source else 'target'}"
        }
        self.features |= {ties, *["late keys"] * any(term.columns.name[0] == "s" for term in qk.terms)}

    def relation(self, rows: Space, columns: Space) -> dict[str | int, str | int]:
        """A label of one for some labels of the other."""
        some = self.rng.sample(rows.labels, self.rng.randint(1, len(rows)))
        return {label: self.rng.choice(columns.labels) for label in some}


def sequences(c: Builder, rng: random.Random, n: int) -> Iterator[Int[Tensor, "batch pos"]]:
    """So many texts of every length, in which the start does not come again."""
    words = [word for word in WORDS if word != c.bos]
    for length in range(1, c.n_ctx + 1):
        free = length - (c.bos is not None)
        texts = [[*([c.bos] if c.bos else []), *rng.choices(words, k=free)] for _ in range(n)]
        yield torch.tensor([[WORDS.index(word) for word in text] for text in texts])


def differences(author: Author, options: Mapping[str, Any]) -> Iterator[tuple[str, float, Interpretation]]:
    """How far patterns and logits of the compiled model are from the interpreter's, on some sources and targets."""
    c, interpreter = author.c, Interpreter(author.c.layout())
    model = c.compile(dtype=torch.float64, error=1e-10, ballast=1e6, **options)
    n = 12
    for source in sequences(author.source, author.rng, n):
        for target in sequences(c, author.rng, n):
            symbolic = interpreter.run(target, source=source)
            with torch.no_grad():
                logits, cache = model.run_with_cache(source, target)
            yield "logits", float((logits - symbolic.logits).abs().max()), symbolic
            for side, one in ((model.decoder, symbolic), (model.encoder, symbolic.source)):
                assert one is not None
                of_side = cache.decoder if side is model.decoder else cache.encoder
                for name, head in side.report.heads.items():
                    pattern = of_side[head.pattern][:, head.index]
                    yield name, float((pattern - one.patterns[name]).abs().max()), symbolic


def test_random_pairs_do_what_the_interpreter_says_or_are_refused_by_name():
    features, accepted = set[str](), 0
    for seed in range(SEED, SEED + N):
        rng = random.Random(seed)
        options = rng.choice(({}, {}, {"norm": "LN", "rotate": 1}, {"rotate": 2}, {"n_heads": 3, "attn_only": False}))
        try:
            author = Author(rng)
            for what, off, symbolic in differences(author, options):
                assert off < 1e-5, f"seed {seed}, {options}: {what} off by {off:.2g}\n{author.c!r}\n{symbolic!r}"
        except InterpError as error:
            assert "'" in str(error), f"seed {seed}: {error}"
            continue
        accepted, features = accepted + 1, features | author.features
    assert accepted > N / 2
    assert features == {"cross head", "head of the source", "head of the target", "table", "mean", "latest", "first",
                        "late keys"}  # fmt: skip
