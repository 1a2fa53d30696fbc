"""The hookable transformer: its parts, its hook points, its runs, and what a run leaves behind.

Read `transformer.py` from top to bottom first, then `block.py`, `attention.py`, `components.py` and `norms.py`. Every
place where the residual stream is read or written is a `HookPoint`; `hooked.py` runs the model under their eyes; an
`ActivationCache` keeps what flowed through them and takes apart the stream (`residual.py`) and logits (`read_out.py`);
`generate.py` predicts, samples and appends. `graph.py` names the components of an architecture and says which reads
what.
"""

from interp.model.allocator import keep_freed_memory
from interp.model.attention import Attention, rotate
from interp.model.block import Block
from interp.model.cache import ActivationCache, select
from interp.model.components import ACTIVATIONS, MLP, Embed, PosEmbed, TokenTypeEmbed, Unembed
from interp.model.context import LayerContext, visible_keys
from interp.model.encoder_decoder import HookedEncoderDecoder
from interp.model.generate import GenerateOptions
from interp.model.graph import Edge, EdgeGraph, Input, Reader, Writer, head_label, head_labels, mlp_label
from interp.model.hooked import Edit
from interp.model.hooked_module import HookedModule
from interp.model.hooks import Hook, HookDirection, HookFn, HookPair, HookPoint, RunHook, Span
from interp.model.kv_cache import KVCache, LayerKeysValues
from interp.model.loss import (
    check_predicts_next_token,
    check_predicts_tokens,
    cross_entropy,
    in_context_learning_score,
    next_token_loss,
    predicted_places,
)
from interp.model.names import STACKS, HookName, in_stack, layer_of, resolve
from interp.model.norms import Norm
from interp.model.options import ReadOut, ReturnType, RunOptions
from interp.model.pair_cache import PairCache
from interp.model.pooling import LinearPooling, Pooling, pool, pooling_weights
from interp.model.provenance import forget_hash, signature
from interp.model.recording import Differentiable, LogitMetric
from interp.model.rows import LogitAttribution, Rows, Stack
from interp.model.sampling import Sampling
from interp.model.stacks import SourceAndTarget, check_one_stack, two_stacks
from interp.model.stream import NormAtScale, Part, Step, StreamPlace, reading_norm, steps, streams_of_block
from interp.model.transformer import HookedTransformer

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "STACKS",
    "ActivationCache",
    "Attention",
    "Block",
    "Differentiable",
    "Edge",
    "EdgeGraph",
    "Edit",
    "Embed",
    "GenerateOptions",
    "Hook",
    "HookDirection",
    "HookFn",
    "HookName",
    "HookPair",
    "HookPoint",
    "HookedEncoderDecoder",
    "HookedModule",
    "HookedTransformer",
    "Input",
    "KVCache",
    "LayerContext",
    "LayerKeysValues",
    "LinearPooling",
    "LogitAttribution",
    "LogitMetric",
    "Norm",
    "NormAtScale",
    "PairCache",
    "Part",
    "Pooling",
    "PosEmbed",
    "ReadOut",
    "Reader",
    "ReturnType",
    "Rows",
    "RunHook",
    "RunOptions",
    "Sampling",
    "SourceAndTarget",
    "Span",
    "Stack",
    "Step",
    "StreamPlace",
    "TokenTypeEmbed",
    "Unembed",
    "Writer",
    "check_one_stack",
    "check_predicts_next_token",
    "check_predicts_tokens",
    "cross_entropy",
    "forget_hash",
    "head_label",
    "head_labels",
    "in_context_learning_score",
    "in_stack",
    "keep_freed_memory",
    "layer_of",
    "mlp_label",
    "next_token_loss",
    "pool",
    "pooling_weights",
    "predicted_places",
    "reading_norm",
    "resolve",
    "rotate",
    "select",
    "signature",
    "steps",
    "streams_of_block",
    "two_stacks",
    "visible_keys",
]
