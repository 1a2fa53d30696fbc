"""What the families of encoders share: layers with norms after each part, and what may stand on top of a stack.

A configuration does not say what stands on top. It is read off the tensors: a head for masked tokens (without one the
model has no unembedding), a pooler on the first token, and a head for classes on the pooler.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from interp.checkpoints.layout import Weight, head_biases, layer_norm, reading_heads, transposed, weight, writing_heads
from interp.checkpoints.options import Options
from interp.config import TransformerConfig
from interp.errors import CheckpointError


@dataclass(frozen=True)
class Heads:
    """Where a family keeps what stands on top of its stack; None for what it does not have.

    Attributes:
        family: what the names of its classes in transformers begin with.
        prefix: what the names of the stack's tensors begin with.
        dense, norm, decoder: of the head for masked tokens: its matrix, its norm and its unembedding.
        bias: an older name of the unembedding's bias.
        pooler: the matrix of the pooler.
        next_sentence: the head for two classes that stands beside a head for masked tokens.
        classifier: the head for classes that stands alone.
        classifier_pooler: the matrix of the pooler below `classifier`.
    """

    family: str
    prefix: str
    dense: str
    norm: str
    decoder: str
    bias: str | None = None
    pooler: str | None = None
    next_sentence: str | None = None
    classifier: str | None = None
    classifier_pooler: str | None = None

    def fields(self, options: Options) -> dict[str, Any]:
        """The fields of a config that the tensors of a checkpoint decide. Raises `CheckpointError` for another head."""
        self._check_known(options)
        masked = _held(self.dense, options)
        pooler, classes = self._found(options)
        return {
            "attention_dir": "bidirectional",
            "masked_token_head": masked,
            "d_vocab_out": options.size("vocab_size") if masked else 0,
            "tie_word_embeddings": bool(options.get("tie_word_embeddings", bool, True)) and masked,
            "pooling": "pooler" if _held(pooler, options) else None,
            "n_pooled_classes": options.tensors[f"{classes}.weight"][0] if classes else 0,
        }

    def _check_known(self, options: Options) -> None:
        known = [self.prefix, *(f"{part}." for part in self._parts())]
        for name in options.tensors:
            if name != self.bias and not name.startswith(tuple(known)):
                raise CheckpointError(f"tensor {name!r} is of a head that is not supported; {self._allowed()}")

    def _parts(self) -> list[str]:
        parts = [self.dense, self.norm, self.decoder, self.pooler, self.next_sentence]
        parts += [self.classifier, self.classifier_pooler]
        return [part for part in parts if part is not None]

    def _allowed(self) -> str:
        pooled = "" if self.pooler is None else ", a pooler, and classes on the pooler"
        return f"allowed: a head for masked tokens{pooled}. The encoder alone is hf_model=model.base_model"

    def _found(self, options: Options) -> tuple[str | None, str | None]:
        """The names of pooler and head for classes in a checkpoint that is read."""
        if _held(self.next_sentence, options):
            return self.pooler, self.next_sentence
        if _held(self.classifier, options) and _held(self.classifier_pooler, options):
            return self.classifier_pooler, self.classifier
        if _held(self.classifier, options):
            raise CheckpointError(
                f"tensor '{self.classifier}.weight' is of a head on every token, which is not supported; "
                f"{self._allowed()}"
            )
        return self.pooler, None

    def layout(self, cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
        """Every tensor on top of the stack, with all biases. Without tensors in `options` these are those to write."""
        if cfg.masked_token_head:
            yield from layer_norm(self.norm, cfg.d_model, "mlm_head.ln")
            yield from self.matrices(cfg, dense_bias=True)
            yield from self._bias(cfg, options)
        yield from self._pooler(cfg, options)

    def matrices(self, cfg: TransformerConfig, dense_bias: bool) -> Iterator[Weight]:
        """The matrices of the head for masked tokens, the first of them with a bias or without."""
        d = cfg.d_model
        yield weight(f"{self.dense}.weight", (d, d), "mlm_head.W_in", transposed)
        if dense_bias:
            yield weight(f"{self.dense}.bias", (d,), "mlm_head.b_in")
        if not cfg.tie_word_embeddings:
            yield weight(f"{self.decoder}.weight", (cfg.d_vocab, d), "unembed.W_U", transposed)

    def _bias(self, cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
        """The bias of the unembedding. BERT and RoBERTa may hold it twice: the decoder uses its own one."""
        own, older, size = f"{self.decoder}.bias", self.bias, (cfg.d_vocab,)
        if older is None:
            yield weight(own, size, "unembed.b_U")
        elif cfg.tie_word_embeddings:  # there they are one and the same
            yield weight(older, size, "unembed.b_U", copies=(own,))
        elif not options.tensors:
            yield from (weight(name, size, "unembed.b_U") for name in (older, own))
        elif own in options.tensors:
            yield weight(own, size, "unembed.b_U")
            yield from _left_out([older], options)
        else:
            yield weight(older, size, "unembed.b_U")

    def _pooler(self, cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
        d, n = cfg.d_model, cfg.n_pooled_classes
        pooler, classes = self._found(options) if options.tensors else self._written(cfg)
        if pooler is not None and cfg.pooling == "pooler":
            yield weight(f"{pooler}.weight", (d, d), "pooler.W_in", transposed)
            yield weight(f"{pooler}.bias", (d,), "pooler.b_in")
        elif pooler is not None:  # sentence-transformers pools otherwise, and leaves it unused
            yield from _left_out([f"{pooler}.weight", f"{pooler}.bias"], options)
        if classes is not None and n:
            yield weight(f"{classes}.weight", (n, d), "pooler.W_class", transposed)
            yield weight(f"{classes}.bias", (n,), "pooler.b_class")

    def _written(self, cfg: TransformerConfig) -> tuple[str | None, str | None]:
        """The names of pooler and head for classes in a checkpoint that is written. Raises `CheckpointError`."""
        if not cfg.n_pooled_classes:
            return self.pooler, None
        if not cfg.masked_token_head:
            return self.classifier_pooler, self.classifier
        if self.next_sentence is None or cfg.n_pooled_classes != 2:
            raise CheckpointError(
                f"n_pooled_classes = {cfg.n_pooled_classes} beside masked_token_head = True: transformers has no such "
                f"{self.family}" + ("" if self.next_sentence is None else "; allowed: 2 classes, or one of the heads")
            )
        return self.pooler, self.next_sentence

    def options(self, cfg: TransformerConfig) -> dict[str, Any]:
        """The keys of a `config.json` that say what stands on top. Raises `CheckpointError` as `layout` does."""
        _, classes = self._written(cfg)
        if cfg.masked_token_head:
            kind = "ForPreTraining" if classes else "ForMaskedLM"
        else:
            kind = "ForSequenceClassification" if classes else "Model"
        tied = cfg.tie_word_embeddings or not cfg.masked_token_head
        written = {"architectures": [self.family + kind], "tie_word_embeddings": tied}
        if kind != "ForSequenceClassification":
            return written
        labels = {f"LABEL_{i}": i for i in range(cfg.n_pooled_classes)}
        return written | {"id2label": {i: label for label, i in labels.items()}, "label2id": labels}


def _held(part: str | None, options: Options) -> bool:
    """Whether a checkpoint holds the matrix of this name."""
    return f"{part}.weight" in options.tensors


def _left_out(names: list[str], options: Options) -> Iterator[Weight]:
    """Tensors, where they are there, that the model does not use."""
    yield from (Weight(name, options.tensors[name], ()) for name in names if name in options.tensors)


@dataclass(frozen=True)
class LayerNames:
    """What a family calls the parts of a layer with norms after each part."""

    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    neurons: str
    neurons_out: str
    norm: str


def post_norm_layer(theirs: str, names: LayerNames, cfg: TransformerConfig, ours: str) -> Iterator[Weight]:
    """Every tensor of such a layer; every matrix has a bias."""
    d, mlp, heads = cfg.d_model, cfg.d_mlp, cfg.n_heads
    for letter, name in (("Q", names.query), ("K", names.key), ("V", names.value)):
        yield weight(f"{theirs}.{name}.weight", (d, d), f"{ours}.attn.W_{letter}", reading_heads(heads))
        yield weight(f"{theirs}.{name}.bias", (d,), f"{ours}.attn.b_{letter}", head_biases(heads))
    yield weight(f"{theirs}.{names.output}.weight", (d, d), f"{ours}.attn.W_O", writing_heads(heads))
    yield weight(f"{theirs}.{names.output}.bias", (d,), f"{ours}.attn.b_O")
    yield from layer_norm(f"{theirs}.{names.attention_norm}", d, f"{ours}.ln1")
    yield weight(f"{theirs}.{names.neurons}.weight", (mlp, d), f"{ours}.mlp.W_in", transposed)
    yield weight(f"{theirs}.{names.neurons}.bias", (mlp,), f"{ours}.mlp.b_in")
    yield weight(f"{theirs}.{names.neurons_out}.weight", (d, mlp), f"{ours}.mlp.W_out", transposed)
    yield weight(f"{theirs}.{names.neurons_out}.bias", (d,), f"{ours}.mlp.b_out")
    yield from layer_norm(f"{theirs}.{names.norm}", d, f"{ours}.ln2")
