"""One layer of a transformer."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from interp.config import TransformerConfig
from interp.model.attention import Attention, CrossAttention
from interp.model.components import MLP
from interp.model.context import LayerContext, whole_span
from interp.model.hooks import HookPoint
from interp.model.norms import Norm
from interp.model.split_inputs import Reading, SplitPoints, split_inputs


class Block(nn.Module):
    """One layer: attention, then an MLP, each reading the stream and adding to it.

    In a model with a memory, cross-attention comes between the two, with a norm of its own, `ln_cross`.

    With pre-norm `t = x + attn(ln1(x))`, `y = t + mlp(ln2(t))`; with post-norm `t = ln1(x + attn(x))`,
    `y = ln2(t + mlp(t))`; in parallel `y = x + attn(ln1(x)) + mlp(ln2(x))`. With norms on both sides (Gemma), what is
    added is `ln1_post(attn(ln1(x)))`, and `ln2_post(mlp(ln2(t)))`. In shortformer models queries and keys read
    `ln1(x) + position`, and values `ln1(x)`.

    Called with a stream alone, `block(x)`, it runs on whole sequences without padding. A subclass may say which classes
    its parts have.

    Attributes:
        layer: its number, which decides where the config differs between layers.
    """

    attention_type: ClassVar[type[Attention]] = Attention
    cross_attention_type: ClassVar[type[CrossAttention]] = CrossAttention
    mlp_type: ClassVar[type[MLP]] = MLP

    def __init__(self, cfg: TransformerConfig, layer: int = 0):
        super().__init__()
        self.cfg, self.layer = cfg, layer
        self.pre_norm, self.norms_writes = cfg.norms_reads, cfg.norm_position == "both"
        kv = "kv_head" if cfg.n_key_value_heads < cfg.n_heads else "head"

        def norm(wanted: bool = True) -> Norm:
            return Norm(cfg.normalization_type if wanted else None, cfg.d_model, cfg.eps)

        # In order of execution, which is the order of hook_map().
        self.hook_resid_pre = HookPoint("batch pos d_model", "the residual stream that enters the block")
        if self.pre_norm:
            self.ln1 = norm(layer > 0 or cfg.first_ln1)
        self.hook_attn_in = HookPoint(f"batch pos {kv} d_model", "the stream as each head alone reads it", lazy=True)
        self.hook_q_input = HookPoint("batch pos head d_model", "the stream as its queries alone read it", lazy=True)
        self.hook_k_input = HookPoint(f"batch pos {kv} d_model", "the stream as its keys alone read it", lazy=True)
        self.hook_v_input = HookPoint(f"batch pos {kv} d_model", "the stream as its values alone read it", lazy=True)
        self.attn = self.attention_type(cfg, layer)
        self.ln1_post = norm(self.norms_writes)
        self.hook_attn_out = HookPoint("batch pos d_model", "what attention adds to the stream")
        if not self.pre_norm:
            self.ln1 = norm()
        if cfg.cross_attention:
            self.hook_resid_cross = HookPoint("batch pos d_model", "the stream between attention and cross-attention")
            if self.pre_norm:
                self.ln_cross = norm()
            self.cross_attn = self.cross_attention_type(cfg, layer)
            self.ln_cross_post = norm(self.norms_writes)
            self.hook_cross_attn_out = HookPoint("batch pos d_model", "what cross-attention adds to the stream")
            if not self.pre_norm:
                self.ln_cross = norm()
        if not cfg.attn_only:
            if not cfg.parallel_attn_mlp:
                self.hook_resid_mid = HookPoint("batch pos d_model", "the stream between attention and MLP")
            self.hook_mlp_in = HookPoint("batch pos d_model", "the stream as the MLP alone reads it", lazy=True)
            if self.pre_norm:
                self.ln2 = norm()
            self.mlp = self.mlp_type(cfg)
            self.ln2_post = norm(self.norms_writes)
            self.hook_mlp_out = HookPoint("batch pos d_model", "what the MLP adds to the stream")
            if not self.pre_norm:
                self.ln2 = norm()
        self.hook_resid_post = HookPoint("batch pos d_model", "the residual stream that leaves the block")

    @property
    def attentions(self) -> list[Attention]:
        """Attention to the stream, and in a model with a memory the attention to that."""
        return [self.attn, self.cross_attn] if self.cfg.cross_attention else [self.attn]

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], context: LayerContext | None = None
    ) -> Float[Tensor, "batch going_on d_model"]:
        """The stream after this block. Without `context` raises as `LayerContext.of_whole_sequences`."""
        if context is None:
            context = LayerContext.of_whole_sequences(self.cfg, self.layer, x)
            with self.hook_resid_pre.running.over(whole_span(x)):
                return self(x, context)
        x = self.hook_resid_pre(x)
        attn_out = self.hook_attn_out(self._attend(x, context))
        x = x if context.going_on is None else x[:, context.going_on]
        if self.cfg.parallel_attn_mlp:
            return self.hook_resid_post(x + attn_out + self._apply_mlp(x))
        x = x + attn_out
        if not self.pre_norm:
            x = self.ln1(x)
        if self.cfg.cross_attention:
            x = self.hook_resid_cross(x)
            x = x + self._attend_memory(x, context)
            if not self.pre_norm:
                x = self.ln_cross(x)
        if self.cfg.attn_only:
            return self.hook_resid_post(x)
        x = self.hook_resid_mid(x)
        x = x + self._apply_mlp(x)
        if not self.pre_norm:
            x = self.ln2(x)
        return self.hook_resid_post(x)

    def _attend(
        self, x: Float[Tensor, "batch pos d_model"], context: LayerContext
    ) -> Float[Tensor, "batch going_on d_model"]:
        read, imposed_scale = self.ln1.read(x) if self.pre_norm else (x, None)
        read_qk = read if context.position_reads is None else read + context.position_reads
        points = SplitPoints(self.hook_attn_in, self.hook_q_input, self.hook_k_input, self.hook_v_input)
        reading = Reading(self.ln1 if self.pre_norm else None, imposed_scale, context.position_reads)
        out = self.attn(read_qk, read, context, split_inputs(self.cfg, points, x, reading))
        return self.ln1_post(out) if self.norms_writes else out

    def _attend_memory(
        self, x: Float[Tensor, "batch pos d_model"], context: LayerContext
    ) -> Float[Tensor, "batch pos d_model"]:
        out = self.cross_attn(self.ln_cross(x) if self.pre_norm else x, context=context.cross)
        return self.hook_cross_attn_out(self.ln_cross_post(out) if self.norms_writes else out)

    def _apply_mlp(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        x = self.hook_mlp_in(x)
        out = self.mlp(self.ln2(x) if self.pre_norm else x)
        return self.hook_mlp_out(self.ln2_post(out) if self.norms_writes else out)
