"""What the writes to the stream add to logits: through the last norm at its scale in the run, and the unembedding."""

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, ShapeError
from interp.model.residual import ResidualStream
from interp.model.rows import LogitAttribution, Stack
from interp.precision import at_least_float32, without_autocast
from interp.text import Answer, answer_in_words, token_ids


class ReadOut(ResidualStream):
    """Decompositions of the stream and of logits, for an `ActivationCache`."""

    @torch.no_grad()
    @without_autocast()
    def logit_attrs(self, stack: Stack, tokens: Answer, incorrect_tokens: Answer | None = None) -> LogitAttribution:
        """How much each component of a final-stream decomposition adds to the logits of `tokens`.

        With `incorrect_tokens`, to the difference of the two logits. Norms need not be folded: components pass the
        final norm at its scale in this run, gain included, its bias and `b_U` are the rows "ln_final_bias" and
        "unembed_bias", and all rows of a complete decomposition sum to the logit (before any soft cap). The values are
        in float32 at least.

        Raises:
            TokenError: a token out of range, or text without a tokenizer or of several tokens.
            ShapeError: answers of another shape than one, [batch] or [batch, pos].
            ConfigError: the rows decompose the stream of an earlier layer; the model has no unembedding, or a
                masked-token head, through which logits are not linear in components.
        """
        self.check_linear_read_out()
        self.check_weights(linear=self.kind == "difference")
        read = self.apply_ln_to_stack(stack)
        directions, offset = self.logit_directions(read.values[0], tokens, incorrect_tokens)
        offset = offset if self.kind == "run" else torch.zeros_like(offset)  # a constant is in no difference
        rows = at_least_float32(read.values)
        values = einsum(rows, directions.to(rows), "row batch pos d_model, batch pos d_model -> row batch pos")
        values, labels = torch.cat([values, offset[None]]), [*read.labels, "unembed_bias"]
        return LogitAttribution(values, labels, answer_in_words(tokens), answer_in_words(incorrect_tokens))

    def check_linear_read_out(self) -> None:
        """Raise `ConfigError` unless logits are linear in the last stream, but for its final norm."""
        if not self.cfg.has_unembed:
            raise ConfigError("this model has no unembedding (d_vocab_out = 0), so there is no logit to split; its "
                              "rows sum to the last stream, which interp.similarity splits further")  # fmt: skip
        if self.cfg.masked_token_head:
            raise ConfigError(
                "masked_token_head = True: the activation function of the head stands between components and logits, "
                "which are therefore no sum of shares. Exact are the shares of the head's own neurons, "
                "interp.lens.direct_attribution(cache, correct, by='mlm_neuron'); what a component does to a logit "
                "is measured by patching it, interp.patching.sweep, or by its gradient, "
                "run_with_cache(gradient_of=Logit(...))"
            )

    def logit_directions(
        self,
        beside: Float[Tensor, "its_batch its_pos d_model"],
        tokens: Answer,
        incorrect_tokens: Answer | None = None,
    ) -> tuple[Float[Tensor, "its_batch its_pos d_model"], Float[Tensor, "its_batch its_pos"]]:
        """Columns of `W_U` and entries of `b_U` for each position of `beside`, on its device, in float32 at least; with
        two answers the differences. Raises as `logit_attrs`.
        """

        def of_answer(answer: Answer) -> tuple[Tensor, Tensor]:
            ids = self._answers(answer, beside).to(self.model.W_U.device)
            columns, entries = self.model.W_U.T[ids], self.model.b_U[ids]
            return at_least_float32(columns).to(beside.device), at_least_float32(entries).to(beside.device)

        directions, offset = of_answer(tokens)
        if incorrect_tokens is not None:
            others, their_offset = of_answer(incorrect_tokens)
            directions, offset = directions - others, offset - their_offset
        return directions, offset

    def _answers(
        self, tokens: Answer, beside: Float[Tensor, "its_batch its_pos d_model"]
    ) -> Int[Tensor, "its_batch its_pos"]:
        shape = beside.shape[:2]
        ids = token_ids(tokens, self.model.to_answer, self.cfg.d_vocab_out).to(beside.device)
        aligned = ids[:, None] if ids.ndim == 1 else ids
        if ids.ndim > 2 or any(n not in (1, m) for n, m in zip(aligned.shape, shape, strict=False)):
            raise ShapeError(
                f"answers have shape {tuple(ids.shape)}; allowed: one token, [batch] or [batch, pos] = {tuple(shape)}"
            )
        return aligned.expand(shape)
