"""Text in and out of a model: its tokenizer, and the methods by which text becomes token ids and ids become text."""

from typing import Any, Literal, SupportsIndex

from jaxtyping import Bool, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ShapeError, TokenError
from interp.model.components import Embed
from interp.text import (
    INPUT,
    AttentionMask,
    Ids,
    MaskedTokens,
    Text,
    TextCodec,
    as_ids,
    as_tokenizer,
    check_mask,
    check_tokens,
    check_vocabulary,
    is_text,
    one_sequence,
    token_ids,
)


class ReadsText:
    """A model that takes text where it has a tokenizer, and token ids always."""

    cfg: TransformerConfig
    embed: Embed

    @property
    def tokenizer(self) -> TextCodec | None:
        """What turns text into token ids and back, or None.

        It can be assigned; a fast tokenizer of transformers becomes a `Tokenizer` (see `interp.text.as_tokenizer`).
        Raises `TokenError` for what is no tokenizer, and `ConfigError` for one with more tokens than the model knows.
        """
        return self._codec

    @tokenizer.setter
    def tokenizer(self, given: Any) -> None:
        tokenizer = as_tokenizer(given)
        check_vocabulary(tokenizer, self.cfg.d_vocab)
        self._codec = tokenizer

    def masked_tokens(
        self, input: Text | Ids | MaskedTokens, attention_mask: AttentionMask | None = None
    ) -> MaskedTokens:
        """Checked token ids and the attention mask, as every run reads them.

        If texts had to be padded, the mask marks the padding; otherwise it is the one that was given. Ids that are not
        a tensor (see `interp.text.Ids`) are put on the model's device. What this returns may be given wherever text or
        ids may. Raises what `forward` raises for its input.
        """
        if isinstance(input, MaskedTokens):
            if attention_mask is not None:
                raise ShapeError("MaskedTokens bring their own mask; give attention_mask= with ids only")
            return input
        padded = None
        if isinstance(input, Tensor):
            tokens = input
        elif is_text(input):
            tokens, padded = self.to_tokens_and_mask(input)
            if attention_mask is not None and not padded.all():
                raise ShapeError("texts of unequal length bring their own mask; give attention_mask= with ids only")
        else:
            tokens = as_ids(input, INPUT).to(self.embed.W_E.device)
        tokens = check_tokens(tokens, self.cfg.d_vocab, self.cfg.n_ctx, self.embed.W_E.device)
        return MaskedTokens(tokens, check_mask(padded if attention_mask is None else attention_mask, tokens))

    def to_tokens(
        self, text: Text, prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> Int[Tensor, "batch pos"]:
        """Token ids of one text or several, on the model's device. Raises `TokenError`.

        `prepend_bos` None is the tokenizer's own habit. For the mask beside padded ids see `to_tokens_and_mask`.
        """
        return self.to_tokens_and_mask(text, prepend_bos, padding_side)[0]

    def to_tokens_and_mask(
        self, text: Text, prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """As `to_tokens`, and which of the ids are tokens rather than padding: the `attention_mask` of a run."""
        tokens, mask = self._tokenizer().to_tokens_and_mask(text, prepend_bos, padding_side)
        return tokens.to(self.embed.W_E.device), mask.to(self.embed.W_E.device)

    def to_str_tokens(self, text: str | Ids, prepend_bos: bool | None = None) -> list[str]:
        """The tokens of one text or of one sequence of ids, as strings. Raises `TokenError`.

        An id that the model has and its tokenizer lacks is shown as its number, "<50280>".
        """
        return self._tokenizer().to_str_tokens(text if isinstance(text, str) else self._in_range(text), prepend_bos)

    def to_string(self, tokens: Ids) -> str:
        """The text of one sequence of ids, those without a token as `to_str_tokens` shows them. Raises `TokenError`."""
        return self._tokenizer().to_string(self._in_range(tokens))

    def _in_range(self, tokens: Ids) -> list[int]:
        """The ids of one sequence. Raises `TokenError` for an id that the model does not have."""
        return token_ids(one_sequence(tokens), None, self.cfg.d_vocab, "token").tolist()

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token. Raises `TokenError` if it is not."""
        return self._tokenizer().to_single_token(text)

    def to_answer(self, text: str) -> int:
        """The number of the logit that a text of one token means. Raises `TokenError` if it means none."""
        if self.cfg.predicts_other_things:
            raise TokenError(
                f"{text!r} is text, but this model has logits of d_vocab_out = {self.cfg.d_vocab_out} other things "
                "than tokens: give their numbers"
            )
        return self.to_single_token(text)

    @property
    def output_tokenizer(self) -> TextCodec | None:
        """What gives the logits names: the tokenizer, or None where they are of other things than tokens."""
        return None if self.cfg.predicts_other_things else self.tokenizer

    def get_token_position(
        self,
        token: str | SupportsIndex,
        text: str | Ids,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Where a token (its text, or its id) stands in one text or one sequence of ids. Raises `TokenError`."""
        return self._tokenizer().get_token_position(token, text, mode, prepend_bos)

    def _tokenizer(self) -> TextCodec:
        if self.tokenizer is None:
            raise TokenError("this model has no tokenizer; give it one (HookedTransformer(cfg, tokenizer=...)), or ids")
        return self.tokenizer
