"""Hidden circuits: a circuit inside a larger model, among random weights and heads that do something else.

What is added reads everything and writes only to spare directions of the stream, which the circuit does not read. So
the circuit does exactly what it did, and its edges are the ground truth for methods that look for them.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.basis import Basis
from circuits.compiler.encoding import Encoding
from circuits.compiler.factors import factor_heads, fitting_d_head
from circuits.compiler.model import CompiledTransformer, Hidden
from circuits.compiler.plan import Plan
from circuits.compiler.positions import PositionCode
from circuits.compiler.sharpness import sharpness_for_gap
from circuits.compiler.sparse import Sparse
from circuits.compiler.trial import random_vectors, trial_texts
from circuits.language import Declaration, Form, Head, Number, Space, copy, is_finite, match, shift
from interp.config import TransformerConfig
from interp.errors import ConfigError, RankError, describe
from interp.indices import check_count, check_seed
from interp.model import MLP, Attention, HookedTransformer

FEATURES = 8
"""The most labels that a distractor writes."""

POSITIONS = 1024
"""About how many positions are run, to see how large the numbers are that random weights read."""

SOFT = 0.05
"""The share of attention that a distractor lets go astray."""

SMALL = 0.1
"""Coordinates that hold less than this are read as if they held as much."""


@dataclass(frozen=True)
class Noise:
    """Random weights wherever the circuit leaves room: `compile(fill=Noise())`.

    Words and positions, spare heads and spare neurons write normally distributed numbers into the directions that the
    circuit does not use. Spare heads and neurons read everything.

    Attributes:
        std: standard deviation of what one of them writes, in each spare direction. A label of the circuit is 1.
        seed: of the random numbers.
        leak: so many times that is written into the circuit's own directions as well; the circuit is not exact then.

    Raises `ConfigError` for a `std` that is not above 0, a negative `leak`, or a seed that is none.
    """

    std: Number = 0.05
    seed: int = 0
    leak: Number = 0.0

    def __post_init__(self) -> None:
        if not is_finite(self.std) or self.std <= 0:
            raise ConfigError(f"Noise: std = {describe(self.std)}; allowed: a finite number above 0")
        if not is_finite(self.leak) or self.leak < 0:
            raise ConfigError(f"Noise: leak = {describe(self.leak)}; allowed: a finite number from 0 on")
        check_seed(self.seed)


@dataclass(frozen=True)
class Distract:
    """Heads that do something else: `compile(distract=Distract(4))`.

    Each attends to the word before, to the same word, to the start or to words in a random relation, and copies what it
    finds there into directions of its own, from which later ones read.

    Attributes:
        heads: how many.
        seed: of their choice.

    Raises `ConfigError` for a number that is not above 0, or a seed that is none.
    """

    heads: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("Distract: heads", self.heads)
        check_seed(self.seed)


# ---------------------------------------------------------------------- distractors


@dataclass(frozen=True)
class Surroundings:
    """What distractors must fit into.

    Attributes:
        circuit: the circuit that they are added to.
        spaces: those that the circuit uses.
        code: how positions are written.
        d_head: width of a head.
        room: how many labels all of them together may write; None for as many as they like.
    """

    circuit: Declaration
    spaces: list[Space]
    code: PositionCode
    d_head: int
    room: int | None

    def fits(self, head: Head, spaces: list[Space]) -> bool:
        """Whether the position code can say what a head does, and d_head dimensions suffice."""
        try:
            encoding, (one,) = factor_heads([head], [*self.spaces, *spaces], self.circuit.n_ctx, self.code, self.d_head)
            fitting_d_head([one], encoding, self.d_head)
            distractor_sharpness(head, encoding)
        except (ConfigError, RankError):
            return False
        return True


def distractor_sharpness(head: Head, encoding: Encoding) -> float:
    """The factor on a distractor's scores: all but `SOFT` of its attention goes to keys that match, if there are any.

    Raises `ConfigError` where its position code cannot say what it matches.
    """
    gap = encoding.code.gap(encoding.n_ctx) if any(map(encoding.own_shift, encoding.terms(head))) else 1.0
    return sharpness_for_gap(gap, encoding.n_ctx, SOFT)


def free_layers(asked: Distract, n_layers: int, n_heads: int | None, busy: Mapping[int, int]) -> list[int]:
    """A layer for each distractor, in ascending order: again and again the one with the fewest heads.

    Raises `ConfigError` where `n_heads` a layer leave no room.
    """
    draw, heads = random.Random(asked.seed), [busy.get(layer, 0) for layer in range(n_layers)]
    room = None if n_heads is None else sum(max(n_heads - n, 0) for n in heads)
    if room is not None and room < asked.heads:
        raise ConfigError(f"{asked}: n_heads = {n_heads} leaves room for {room} beside the circuit's; raise n_heads")
    chosen: list[int] = []
    for _ in range(asked.heads if n_layers else 0):
        layer = min(range(n_layers), key=lambda layer: (heads[layer], draw.random()))
        heads[layer] += 1
        chosen.append(layer)
    return sorted(chosen)


def distractors(among: Surroundings, asked: Distract, layers: Sequence[int]) -> tuple[list[Space], list[Head]]:
    """Spaces and heads of the distractors, of which each lies in one of these layers of the model.

    Raises `ConfigError` where there is no room for a label each, or no head fits.
    """
    circuit, draw, spaces, heads = among.circuit, random.Random(asked.seed), list[Space](), list[Head]()
    room = FEATURES if among.room is None else among.room // asked.heads
    n_labels = min(FEATURES, len(circuit.tok), among.d_head, room)
    if n_labels < 1:
        raise ConfigError(f"{asked}: {max(among.room or 0, 0)} dimensions of the stream are left for what they write; "
                          "give a larger d_model, or fewer heads=")  # fmt: skip
    for i, layer in enumerate(layers):
        own = Space(_free(f"distractor {i}", circuit.spaces), tuple(range(n_labels)))
        earlier = [space for space, head in zip(spaces, heads, strict=True) if head.layer < layer]
        for kind, qk in _matches(circuit, earlier, n_labels, draw):
            source = draw.choice([*earlier, circuit.tok])
            ov = copy(source, own, {label: draw.randrange(n_labels) for label in source.labels})
            head = Head(_free(f"distractor {i}: {kind}", [part.name for part in circuit.parts]), layer, qk, ov, gap=1.0)
            if among.fits(head, [*spaces, own]):
                spaces.append(own)
                heads.append(head)
                break
        else:
            raise ConfigError(f"{asked}: none fits into d_head = {among.d_head}; raise it")
    return spaces, heads


def _matches(
    circuit: Declaration, earlier: list[Space], n_classes: int, draw: random.Random
) -> Iterator[tuple[str, Form]]:
    """What a distractor may attend to, in a random order, and last of all what fits everywhere."""
    query, key = draw.choice([*earlier, circuit.tok]), draw.choice([*earlier, circuit.tok])
    back = draw.randint(1, 2)
    of_query, of_key = ({label: draw.randrange(n_classes) for label in space.labels} for space in (query, key))
    kinds: dict[str, Callable[[], Form]] = {
        f"{back} back": lambda: match(circuit.pos, circuit.pos, shift(back)),
        "same word": lambda: match(circuit.tok, circuit.tok),
        f"{query.name} to {key.name}": lambda: match(query, key, lambda one, other: of_query[one] == of_key[other]),
    }
    for name in draw.sample(list(kinds), len(kinds)):
        try:
            yield name, kinds[name]()
        except ConfigError:  # a relation that relates nothing
            continue
    word = draw.choice(circuit.tok.labels) if circuit.bos is None else circuit.bos
    yield f"to {word!r}", match(circuit.one, circuit.tok, {"1": word})


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, with primes where it is taken."""
    while name in taken:
        name += "'"
    return name


# ---------------------------------------------------------------------- noise


@torch.no_grad()
def fill_model(model: CompiledTransformer, basis: Basis, noise: Noise) -> None:
    """Write random weights wherever the circuit, and its distractors, leave room.

    Reads are scaled by how large each coordinate is on some texts: scores and values are about 1 in every layer.
    """
    circuit, plan = model.circuit, model.plan
    filler = _Filler(model, plan, basis, noise)
    model.embed.W_E.add_(filler.writes(model.cfg.d_vocab))
    if model.cfg.has_position_vectors:
        model.pos_embed.W_pos.add_(filler.writes(model.cfg.n_ctx))
    (*_, tokens) = trial_texts(circuit, POSITIONS)
    stream = model.embedded(tokens, random_vectors(circuit, tokens, filler.generator))
    taken = {(place.layer, place.index) for place in plan.places.values()}
    for layer, block in enumerate(model.blocks):
        filler.look(stream)
        for index in (i for i in range(model.cfg.n_heads) if (layer, i) not in taken):
            filler.head(block.attn, index)
        if not model.cfg.attn_only:
            mid = [("resid_mid", layer)]
            _, cache = model.run_with_cache(stream, names_filter=mid, start_at_layer=layer, stop_at_layer=layer + 1)
            filler.look(cache["resid_mid", layer])
            filler.neurons(block.mlp, len(plan.neurons[layer]) if layer in plan.neurons else 0)
        stream = model(stream, start_at_layer=layer, stop_at_layer=layer + 1)


def hidden_report(plan: Plan, basis: Basis, cfg: TransformerConfig, noise: Noise | None) -> Hidden | None:
    """What is in the model beside the circuit; None if it is no larger than the circuit."""
    spare, n_heads = basis.width - plan.encoding.size, cfg.n_layers * cfg.n_heads
    if noise is None and not plan.distractors and plan.n_layers == len(plan.layers) and spare <= 0:
        return None
    n_neurons = cfg.n_layers * cfg.d_mlp - sum(map(len, plan.neurons.values()))
    return Hidden(
        layers=plan.layers,
        n_layers=plan.n_layers,
        spare=max(spare, 0),
        noise_heads=0 if noise is None else n_heads - len(plan.heads) - len(plan.distractors),
        noise_neurons=0 if noise is None else n_neurons,
        distractors={one.head.name: plan.places[one.head.name].node for one in plan.distractors},
    )


class _Filler:
    """Random vectors that read all coordinates, and write the spare ones."""

    def __init__(self, model: HookedTransformer, plan: Plan, basis: Basis, noise: Noise):
        self.basis, self.std, self.dtype = basis, float(noise.std), model.cfg.dtype
        self.generator = torch.Generator().manual_seed(noise.seed)
        self.strength = torch.ones(basis.width, dtype=torch.float64)
        self.strength[: plan.encoding.size] = float(noise.leak)
        self.sizes, self.length, self.contrast = torch.ones(basis.width, dtype=torch.float64), 1.0, 1.0
        every = torch.arange(basis.width)
        ones = torch.ones(basis.width, dtype=torch.float64)
        self._all = basis.reads(Sparse(every, every, ones, (basis.width, basis.width)))

    def look(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        """See how large each coordinate is here, and how much it differs from position to position."""
        held = (stream.double() @ self._all).flatten(0, 1)
        self.sizes = held.square().mean(0).sqrt().clamp(min=SMALL)
        self.length = float((held.square().mean(0).sqrt() / self.sizes).norm())
        self.contrast = max(float((held.std(0, correction=0) / self.sizes).norm()), SMALL * self.length)

    def writes(self, n: int, factor: float = 1.0) -> Float[Tensor, "n d_model"]:
        """So many vectors that are written."""
        vectors = self._normal(n) * self.strength * self.std * factor
        return self.basis.writes(Sparse.dense(vectors.T), self.dtype)

    def reads(self, n: int, length: float) -> Float[Tensor, "d_model n"]:
        """So many vectors that are read: what they give is about 1 for a stream of this length, in units of `sizes`."""
        vectors = self._normal(n) / self.sizes / length
        return self.basis.reads(Sparse.dense(vectors.T), self.dtype)

    def head(self, attn: Attention, index: int) -> None:
        """Fill a head. Scores of different keys differ by about 1, whatever the model divides them by."""
        d_head = attn.cfg.d_head
        attn.W_Q[index] = self.reads(d_head, self.length * d_head**0.5 / attn.cfg.attn_scale)
        attn.W_K[index] = self.reads(d_head, self.contrast)
        attn.W_V[index] = self.reads(d_head, self.length)
        attn.W_O[index] = self.writes(d_head, d_head**-0.5)

    def neurons(self, mlp: MLP, used: int) -> None:
        """Fill the neurons from `used` on, and put all of them in a random order."""
        n = mlp.W_in.shape[1]
        if n > used:
            mlp.W_in[:, used:] = self.reads(n - used, self.length)
            mlp.b_in[used:] = (0.5 * self._normal(n - used)[:, 0]).to(self.dtype)
            mlp.W_out[used:] = self.writes(n - used, (n - used) ** -0.5)
        order = torch.randperm(n, generator=self.generator)
        mlp.W_in.copy_(mlp.W_in[:, order])
        mlp.b_in.copy_(mlp.b_in[order])
        mlp.W_out.copy_(mlp.W_out[order])

    def _normal(self, n: int) -> Float[Tensor, "n width"]:
        return torch.randn(n, self.basis.width, dtype=torch.float64, generator=self.generator)
