"""The hookable transformer: its parts, its hook points, its runs, and what a run leaves behind.

Read `transformer.py` from top to bottom first, then `block.py`, `attention.py`, `components.py` and `norms.py`. Every
place where the residual stream is read or written is a `HookPoint`; `hooked.py` runs the model under their eyes; an
`ActivationCache` keeps what flowed through them and takes the stream apart (`residual.py`); `generate.py` predicts,
samples and appends. `graph.py` names the components of an architecture and says which reads what.
"""

from interp.model.allocator import keep_freed_memory
from interp.model.attention import Attention, rotate
from interp.model.block import Block
from interp.model.cache import ActivationCache, select
from interp.model.components import MLP
from interp.model.context import LayerContext, visible_keys
from interp.model.generate import GenerateOptions
from interp.model.graph import Edge, EdgeGraph, Input, Reader, Writer, head_label, head_labels, mlp_label
from interp.model.hooked import Edit, ReadOut, ReturnType, RunOptions
from interp.model.hooked_module import HookedModule
from interp.model.hooks import HookFn, HookPair, HookPoint, RunHook, Span
from interp.model.kv_cache import KVCache
from interp.model.loss import (
    check_predicts_tokens,
    cross_entropy,
    in_context_learning_score,
    next_token_loss,
    predicted_places,
)
from interp.model.names import HookName, layer_of, resolve
from interp.model.norms import Norm
from interp.model.provenance import forget_hash, signature
from interp.model.recording import Differentiable, LogitMetric
from interp.model.residual import LogitAttribution, Rows, Stack
from interp.model.sampling import Sampling
from interp.model.stream import NormAtScale, Step, StreamPlace, reading_norm, steps
from interp.model.transformer import HookedTransformer

__all__ = [
    "MLP",
    "ActivationCache",
    "Attention",
    "Block",
    "Differentiable",
    "Edge",
    "EdgeGraph",
    "Edit",
    "GenerateOptions",
    "HookFn",
    "HookName",
    "HookPair",
    "HookPoint",
    "HookedModule",
    "HookedTransformer",
    "Input",
    "KVCache",
    "LayerContext",
    "LogitAttribution",
    "LogitMetric",
    "Norm",
    "NormAtScale",
    "ReadOut",
    "Reader",
    "ReturnType",
    "Rows",
    "RunHook",
    "RunOptions",
    "Sampling",
    "Span",
    "Stack",
    "Step",
    "StreamPlace",
    "Writer",
    "check_predicts_tokens",
    "cross_entropy",
    "forget_hash",
    "head_label",
    "head_labels",
    "in_context_learning_score",
    "keep_freed_memory",
    "layer_of",
    "mlp_label",
    "next_token_loss",
    "predicted_places",
    "reading_norm",
    "resolve",
    "rotate",
    "select",
    "signature",
    "steps",
    "visible_keys",
]
