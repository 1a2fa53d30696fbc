"""The families of transformers' checkpoints by `model_type`.

A family is three pure functions and a few names. The functions read a configuration, write one, and describe every
tensor of a checkpoint. They are in the family's own file.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.checkpoints import bart, bert, distilbert, gemma, gpt2, llama, modernbert, neox, qwen, t5
from interp.checkpoints.layout import Weight
from interp.checkpoints.options import Options
from interp.errors import CheckpointError, did_you_mean

ATTENTION_BIAS = {"attention_bias": ("b_Q", "b_K", "b_V", "b_O")}


@dataclass(frozen=True)
class Family:
    """The particulars of one `model_type`.

    Attributes:
        read_config, write_config, layout: the functions of these names in the family's file.
        prefix: what the names of all tensors but the head begin with. A checkpoint of the model without its head
            leaves it out.
        head: the name of the unembedding.
        aliases: for tensors that some versions of transformers call otherwise, patterns of these names, and what the
            names are here.
        skipped: a pattern for the names of tensors that are no weights, such as stored masks.
        bias_flags: the options that say whether certain biases exist, each with the ends of these biases' names here.
        causal: whether attention sees no later positions, whatever a configuration says.
        pair: whether the models are an encoder with a decoder; the configs are then `EncoderDecoderConfig`s.
        settle: where an option has to be read off the tensors, the options with it; the function is given those of the
            configuration, and one that returns the tensor of a name or None.
    """

    read_config: Callable[[Options, torch.dtype], Any]
    write_config: Callable[[Any], dict[str, Any]]
    layout: Callable[[Any, Options], Iterable[Weight]]
    prefix: str = "model."
    head: str = "lm_head.weight"
    aliases: Mapping[str, str] = field(default_factory=dict)
    skipped: str = llama.SKIPPED
    bias_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    causal: bool = True
    pair: bool = False
    settle: Callable[[Options, Callable[[str], Tensor | None]], Options] | None = None


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        gpt2.read_config,
        gpt2.write_config,
        gpt2.layout,
        prefix="transformer.",
        skipped=gpt2.SKIPPED,
    ),
    "gpt_neox": Family(
        neox.read_config,
        neox.write_config,
        neox.layout,
        prefix="gpt_neox.",
        head="embed_out.weight",
        aliases={r"lm_head\.weight": "embed_out.weight"},  # in the memory of transformers 5, not in its files
        skipped=neox.SKIPPED,
        bias_flags=ATTENTION_BIAS,
    ),
    "llama": Family(
        llama.read_config,
        llama.write_config,
        llama.layout,
        bias_flags=ATTENTION_BIAS | {"mlp_bias": ("mlp.b_gate", "mlp.b_in", "mlp.b_out")},
    ),
    "mistral": Family(llama.read_mistral_config, llama.write_mistral_config, llama.mistral_layout),
    "qwen2": Family(qwen.read_qwen2_config, qwen.write_qwen2_config, qwen.qwen2_layout),
    "qwen3": Family(qwen.read_qwen3_config, qwen.write_qwen3_config, qwen.qwen3_layout, bias_flags=ATTENTION_BIAS),
    "gemma2": Family(gemma.read_gemma2_config, gemma.write_gemma2_config, gemma.layout, bias_flags=ATTENTION_BIAS),
    "gemma3_text": Family(gemma.read_gemma3_config, gemma.write_gemma3_config, gemma.layout, bias_flags=ATTENTION_BIAS),
    "bert": Family(
        bert.read_config,
        bert.write_config,
        bert.layout,
        prefix=bert.HEADS.prefix,
        head=f"{bert.HEADS.decoder}.weight",
        aliases=bert.SPELLINGS,
        skipped=bert.SKIPPED,
        causal=False,
    ),
    "roberta": Family(
        bert.read_roberta_config,
        bert.write_roberta_config,
        bert.roberta_layout,
        prefix=bert.ROBERTA_HEADS.prefix,
        head=f"{bert.ROBERTA_HEADS.decoder}.weight",
        skipped=bert.SKIPPED,
        causal=False,
    ),
    "xlm-roberta": Family(
        bert.read_roberta_config,
        bert.write_xlm_roberta_config,
        bert.roberta_layout,
        prefix=bert.ROBERTA_HEADS.prefix,
        head=f"{bert.ROBERTA_HEADS.decoder}.weight",
        skipped=bert.SKIPPED,
        causal=False,
    ),
    "distilbert": Family(
        distilbert.read_config,
        distilbert.write_config,
        distilbert.layout,
        prefix=distilbert.HEADS.prefix,
        head=f"{distilbert.HEADS.decoder}.weight",
        aliases=bert.SPELLINGS,
        skipped=distilbert.SKIPPED,
        causal=False,
    ),
    "modernbert": Family(
        modernbert.read_config,
        modernbert.write_config,
        modernbert.layout,
        prefix=modernbert.HEADS.prefix,
        head=f"{modernbert.HEADS.decoder}.weight",
        bias_flags=modernbert.BIAS_FLAGS,
        causal=False,
    ),
    "t5": Family(
        t5.read_config, t5.write_config, t5.layout, prefix="", skipped=t5.SKIPPED, pair=True, settle=t5.settle_head
    ),
    "mt5": Family(
        t5.read_mt5_config,
        t5.write_mt5_config,
        t5.layout,
        prefix="",
        skipped=t5.SKIPPED,
        pair=True,
        settle=t5.settle_head,
    ),
    "bart": Family(bart.BART.read_config, bart.BART.write_config, bart.BART.layout, pair=True),
    "mbart": Family(bart.MBART.read_config, bart.MBART.write_config, bart.MBART.layout, pair=True),
    "marian": Family(bart.MARIAN.read_config, bart.MARIAN.write_config, bart.MARIAN.layout, pair=True),
    "pegasus": Family(bart.PEGASUS.read_config, bart.PEGASUS.write_config, bart.PEGASUS.layout, pair=True),
}
"""Every supported `model_type`. SmolLM2 and TinyLlama call themselves llama, Pythia gpt_neox, Qwen2.5 qwen2, Flan-T5
t5."""


OTHER_ENCODERS = {
    "albert": "its embedding is narrower than its stream",
    "electra": "its embedding may be narrower than its stream",
    "mobilebert": "its blocks have bottlenecks",
    "deberta": "its attention scores have terms of relative positions",
    "deberta-v2": "its attention scores have terms of relative positions",
    "mpnet": "its attention scores have biases of relative positions",
    "nomic_bert": "it is code of its own",
    "camembert": "it is a RoBERTa by another name",
}
OTHER_PAIRS = {
    "umt5": "each of its layers has a table of relative positions of its own",
    "longt5": "its attention is local",
    "switch_transformers": "its MLPs are mixtures of experts",
    "led": "its attention is local, with global tokens",
    "plbart": "it is a BART by another name",
    "blenderbot": "its table of positions begins elsewhere",
    "blenderbot-small": "its decoder adds positions after the norm of the embeddings",
    "m2m_100": "its positions are counted from the padding token on",
    "nllb-moe": "its MLPs are mixtures of experts",
    "fsmt": "its positions are counted from the padding token on",
    "prophetnet": "it predicts several tokens at once",
    "encoder-decoder": "its stacks are two models of their own, joined afterwards",
    "whisper": "it reads sound",
}
"""Models that are not supported, and why; each is told which families of its kind are."""


def family_of(model_type: Any) -> Family:
    """The family with this `model_type`. Raises `CheckpointError` listing those there are."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    encoders = [name for name, family in FAMILIES.items() if not (family.causal or family.pair)]
    pairs = [name for name, family in FAMILIES.items() if family.pair]
    for others, what, alike in (
        (OTHER_ENCODERS, "encoders", encoders),
        (OTHER_PAIRS, "encoders with decoders", pairs),
    ):
        if model_type in others:
            raise CheckpointError(f"model_type = {model_type!r} is not supported ({others[model_type]}); the {what} "
                                  f"that are: {', '.join(alike)}")  # fmt: skip
    raise CheckpointError(
        f"model_type = {model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        f"{did_you_mean(str(model_type), FAMILIES)}"
    )
