"""Export: a circuit as a transformers GPT-2.

A compiled circuit is an ordinary model, so `save_pretrained` is all it takes to keep it. GPT-2 asks for more: a
LayerNorm before everything, learned positions, an MLP in every block, and heads that together are as wide as the
stream. The ballast makes the norms harmless, the weights of empty heads and neurons are zero.
"""

import math
import os
from typing import Unpack

from circuits import Circuit
from circuits.compiler import CompiledTransformer, CompileOptions
from circuits.language import listed
from interp.errors import ConfigError, describe
from interp.keywords import known_keywords

FIXED = ("norm", "attn_only", "n_heads", "d_model")


@known_keywords
def compile_as_gpt2(circuit: Circuit, **options: Unpack[CompileOptions]) -> CompiledTransformer:
    """Compile with GPT-2's architecture, in the narrowest stream that its heads fill.

    Args:
        options: of `compile_circuit`, but those that GPT-2 fixes: norm, attn_only, n_heads and d_model.

    Raises `ConfigError` for an option that GPT-2 fixes, rotary positions, a bidirectional circuit, one that reads
    vectors, or one with a source; else as `compile_circuit` does.
    """
    for name, value in options.items():
        if name in FIXED:
            raise ConfigError(f"{name} = {describe(value)}: GPT-2 fixes {', '.join(FIXED)}")
    if circuit.source is not None:
        raise ConfigError(f"GPT-2 is one stack, and {circuit!r} has a source")
    if circuit.inputs:
        raise ConfigError(f"GPT-2 reads words, the circuit reads vectors {listed(circuit.inputs)}")
    if circuit.attention_dir != "causal":
        raise ConfigError(f"GPT-2 is causal, the circuit's attention is {circuit.attention_dir}")
    options = {**options, "norm": "LN", "attn_only": False}
    plain = circuit.compile(**options)
    if plain.cfg.positional_embedding_type != "standard":
        raise ConfigError("GPT-2 has learned positions, not rotary ones")
    d_head = plain.cfg.d_head + plain.cfg.d_head % 2  # even, as the stream [x, -x, C, -C] is
    n_heads = max(plain.cfg.n_heads, math.ceil(plain.cfg.d_model / d_head))
    return circuit.compile(**{**options, "d_head": d_head, "n_heads": n_heads, "d_model": n_heads * d_head})


@known_keywords
def save_as_gpt2(circuit: Circuit, folder: str | os.PathLike[str], **options: Unpack[CompileOptions]) -> None:
    """Write `config.json` and `model.safetensors` that transformers loads as a `GPT2LMHeadModel`.

    Options and errors as for `compile_as_gpt2`. With the default ballast of 1e3 the logits agree with those of the
    circuit without norms to about 1e-5 in float32.

    No padding token is named in the files. The start of the text often has id 0; who tells transformers to pad with
    it, as in `generate(ids, pad_token_id=0)`, and gives no `attention_mask`, has it masked, and heads that find nothing
    have nowhere to rest. Give `attention_mask=torch.ones_like(ids)` then. Readouts are not saved; GPT-2 has none.
    """
    compile_as_gpt2(circuit, **options).save_pretrained(folder, "gpt2")
