"""Components of a model by name, as path patching speaks of them: what writes to the stream, and what reads it."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from interp.errors import HookNotFoundError, did_you_mean

if TYPE_CHECKING:
    from interp.model import HookedTransformer


@dataclass(frozen=True)
class Node:
    """A component, and which of its inputs is meant.

    Attributes:
        kind: "embed", "head", "mlp" or "logits".
        layer: of a head or MLP; -1 for the embedding, n_layers for the logits, so that earlier ones are smaller.
        head: of a head.
        reads: "q", "k" or "v" where a head's input is meant.
    """

    kind: Literal["embed", "head", "mlp", "logits"]
    layer: int
    head: int | None = None
    reads: Literal["q", "k", "v"] | None = None

    @classmethod
    def of(cls, name: str, model: "HookedTransformer", on_the_way: bool = False) -> "Node":
        """The component called `name`; on the way of a path, `.k` and `.v` are inputs of a query head.

        An MLP may also be called as decompositions of the stream call its write, "5_mlp_out".

        Raises `HookNotFoundError` naming what is near, or what is out of range.
        """
        cfg = model.cfg
        if not isinstance(name, str):
            raise HookNotFoundError(f"{name!r} is no component; components are named as text, such as 'L0H1'")
        if name in ("embed", "logits"):
            return cls(name, -1 if name == "embed" else cfg.n_layers)
        found = re.fullmatch(r"L(\d+)(?:H(\d+)(?:\.([qkv]))?|\.mlp)", re.sub(r"^(\d+)_mlp_out$", r"L\1.mlp", name))
        if not found:
            known = ["embed", "logits", "L0H0", "L0H0.q", "L0H0.k", "L0H0.v", "L0.mlp"]
            raise HookNotFoundError(f"{name!r} is no component; written as {', '.join(known)}"
                                    f"{did_you_mean(name, known)}")  # fmt: skip
        layer, head, reads = int(found[1]), found[2], cast(Any, found[3])
        heads = cfg.n_key_value_heads if reads in ("k", "v") and not on_the_way else cfg.n_heads
        if layer >= cfg.n_layers or (head is not None and int(head) >= heads):
            kind = "heads" if heads == cfg.n_heads else "key-value heads"
            raise HookNotFoundError(f"{name!r} is not there: the model has {cfg.n_layers} layers of {heads} {kind}")
        if head is None and cfg.attn_only:
            raise HookNotFoundError(f"{name!r} is not there: this model has no MLPs")
        return cls("head", layer, int(head), reads) if head is not None else cls("mlp", layer)

    def __str__(self) -> str:
        if self.kind == "head":
            return f"L{self.layer}H{self.head}" + (f".{self.reads}" if self.reads else "")
        return f"L{self.layer}.mlp" if self.kind == "mlp" else self.kind

    def reaches(self, later: "Node", parallel: bool) -> bool:
        """Whether what this writes is read by `later`; attention comes before the MLP of its layer, unless parallel."""
        within = not parallel and self.kind == "head" and later.kind == "mlp"
        return self.layer < later.layer or (self.layer == later.layer and within)
