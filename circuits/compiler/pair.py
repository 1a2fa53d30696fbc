"""Pairs: a circuit with a source becomes the weights of a `HookedEncoderDecoder`.

Each side is compiled as a circuit of one stack is. Keys and values of cross heads read the basis of the source.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from circuits.compiler.compile import Stack, also_needed, compile_stack, doubt
from circuits.compiler.edges import compiled_edges_of_pair
from circuits.compiler.model import CompiledTransformer
from circuits.compiler.options import Options, asked_sizes
from circuits.compiler.positions import PositionCode, position_code
from circuits.compiler.trial import Tried, run_trial
from circuits.language import DECODER, ENCODER, SOURCE, UNEMBED, Declaration, Layout, Number, check_alive
from interp.config import EncoderDecoderConfig
from interp.errors import ConfigError
from interp.keywords import known_keywords
from interp.model import HookedEncoderDecoder
from interp.text import Ids, Text, is_single

if TYPE_CHECKING:
    from networkx import MultiDiGraph


class CompiledEncoderDecoder(HookedEncoderDecoder):
    """A `HookedEncoderDecoder` that knows which circuit it was compiled from. Saved, it is a plain checkpoint.

    Attributes:
        circuit: the declaration as it was then.
        encoder, decoder: the two stacks; each has the `report` and the `plan` of its side.
    """

    encoder_type = decoder_type = CompiledTransformer
    circuit: Declaration
    encoder: CompiledTransformer
    decoder: CompiledTransformer

    @torch.no_grad()
    def predict(self, source: Text | Ids, target: Text | Ids | None = None) -> list[Any]:
        """For each position of a target what follows it, a word or None for nothing; several targets, a list of lists.

        A target that is text is read after the start, as `EncoderDecoder.tokens` does; without a target there is the
        start alone. Raises `TokenError` for texts that either side does not take.
        """
        read = self.circuit.source_tokens(source)
        told = self.circuit.tokens([""] * len(read) if target is None else target)
        device = self.decoder.W_E.device
        logits = self(read.to(device), told.to(device))
        assert isinstance(logits, Tensor)
        said = self.decoder.in_words(logits)
        return said[0] if is_single(source) else said

    @property
    def nodes(self) -> dict[str, str]:
        """Where each declared part is, such as "decoder.L0X1", by its name; those of the source are "source/...".

        "embed" and "pos_embed" are both the component "embed" of their side.
        """
        read = {name: node for name, node in self.encoder.nodes.items() if name != UNEMBED}
        of_source = {SOURCE + name: ENCODER + node for name, node in read.items()}
        return {**of_source, **{name: DECODER + node for name, node in self.decoder.nodes.items()}}

    def edges(self) -> "MultiDiGraph":
        """Which component feeds which: the exact graph of what was compiled, spelled as `EncoderDecoder.edges` is.

        See `CompiledTransformer.edges` for what it may differ in.
        """
        return compiled_edges_of_pair(self.encoder.plan, self.decoder.plan)

    def _take(self, side: str, stack: Stack) -> None:
        """Take over a compiled stack: its weights, and what it knows of its circuit."""
        own, given = self.stacks[side], stack.model
        assert isinstance(own, CompiledTransformer)
        own.load_state_dict(given.state_dict())
        own.circuit, own.plan, own.ends, own.report = given.circuit, given.plan, given.ends, given.report


@known_keywords
def compile_pair(
    circuit: Declaration,
    *,
    d_head: int | None = None,
    d_model: int | None = None,
    n_heads: int | None = None,
    d_mlp: int | None = None,
    n_layers: int | None = None,
    slack: Number = 0.0,
    rotate: int | None = None,
    positions: str | PositionCode = "onehot",
    norm: Literal["LN", "RMS"] | None = None,
    ballast: Number = 1e3,
    error: Number = 1e-6,
    attn_scale: Number | None = None,
    attn_only: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> CompiledEncoderDecoder:
    """Write the weights of both stacks.

    Options are those of `compile_circuit`, and hold for both sides; without sizes, each side is as large as it needs to
    be. A pair is neither hidden in a larger model nor compressed (fill, distract, layers, like, compress).

    Raises as `compile_circuit`; also `ConfigError` without a source, for one that nothing reads, and for a cross head
    that matches positions of the two sides in a code that cannot write it.

    >>> from circuits.gallery import pair
    >>> model = compile_pair(pair("copy_source").build())
    >>> model.encoder.cfg.n_layers, model.decoder.cfg.n_layers
    (0, 1)
    """
    if circuit.source is None:
        raise ConfigError(f"{circuit!r} has no source, and this compiles two stacks; say compile_circuit")
    options = Options(
        sizes=asked_sizes(
            None, attn_only, d_head=d_head, d_model=d_model, n_heads=n_heads, d_mlp=d_mlp, n_layers=n_layers
        ),
        code=position_code(positions),
        slack=slack,
        rotate=rotate,
        norm=norm,
        ballast=ballast,
        error=error,
        attn_scale=attn_scale,
        dtype=dtype,
    )
    options.check()
    layout = Layout(circuit, also=also_needed(circuit, options))
    assert layout.source is not None
    check_alive(layout)
    source = layout.source.declaration
    encoder = compile_stack(Layout(source, also_needed(source, options), reader=layout.declaration), options)
    decoder = compile_stack(layout, options, encoder)
    soft = ["a smaller slack="] if slack and any(stack.model.plan.tables for stack in (encoder, decoder)) else []
    if advice := doubt(decoder, soft) or doubt(encoder, soft):
        twin = compile_pair(circuit, positions=decoder.model.plan.encoding.code, error=error, dtype=torch.float64)
        of_source = Tried(encoder.model, twin.encoder, encoder.basis)
        run_trial(Tried(decoder.model, twin.decoder, decoder.basis), advice, of_source)
    for stack in (encoder, decoder):
        stack.warn()
    start = circuit.vocabulary.to_single_token(circuit.bos or "")
    cfg = EncoderDecoderConfig(
        encoder=encoder.model.cfg, decoder=decoder.model.cfg, start_token=start, stop_token=circuit.eos_id
    )
    pair = CompiledEncoderDecoder(cfg, source.vocabulary, circuit.vocabulary, init_weights=False)
    pair._take("encoder", encoder)
    pair._take("decoder", decoder)
    pair.circuit = layout.declaration
    return pair
