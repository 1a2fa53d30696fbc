"""Text in and out of a model: its tokenizer, and the methods by which text becomes token ids and ids become text."""

import dataclasses
from typing import Any, Literal, SupportsIndex, cast, overload

from jaxtyping import Bool, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ShapeError, TokenError
from interp.model.components import Embed
from interp.text import (
    INPUT,
    Arrays,
    AttentionMask,
    Ids,
    MaskedTokens,
    Memory,
    OneSequence,
    Text,
    TextCodec,
    as_ids,
    as_tokenizer,
    check_mask,
    check_memory,
    check_token_types,
    check_tokens,
    check_vocabulary,
    is_text,
    sequences,
    token_ids,
)


class ReadsText:
    """A model that takes text where it has a tokenizer, and token ids always."""

    cfg: TransformerConfig
    embed: Embed

    @property
    def tokenizer(self) -> TextCodec | None:
        """What turns text into token ids and back, or None.

        It can be assigned; a fast tokenizer of transformers becomes a `Tokenizer` (see `interp.text.as_tokenizer`), in
        a model with bidirectional attention one that puts all special tokens around a text.
        Raises `TokenError` for what is no tokenizer, and `ConfigError` for one with more tokens than the model knows.
        """
        return self._codec

    @tokenizer.setter
    def tokenizer(self, given: Any) -> None:
        tokenizer = as_tokenizer(given, add_special_tokens=self.cfg.attention_dir == "bidirectional")
        check_vocabulary(tokenizer, self.cfg.d_vocab)
        self._codec = tokenizer

    def masked_tokens(
        self,
        input: Text | Ids | MaskedTokens,
        attention_mask: AttentionMask | None = None,
        token_types: Ids | None = None,
        memory: Memory | Tensor | None = None,
    ) -> MaskedTokens:
        """Checked token ids, and the attention mask, token types and memory beside them, as every run reads them.

        If texts had to be padded, the mask marks the padding; otherwise it is the one that was given. Ids that are not
        a tensor (see `interp.text.Ids`) are put on the model's device. What this returns may be given wherever text or
        ids may. Raises what `forward` raises for its input.
        """
        prompts = self.read_tokens(input, attention_mask, token_types)
        if memory is not None and prompts.memory is not None:
            raise ShapeError("these MaskedTokens bring a memory; give memory= with others only")
        memory = prompts.memory if memory is None else memory
        memory = check_memory(memory, prompts.ids, self.cfg.d_memory, self.embed.W_E.dtype)
        return prompts if memory is prompts.memory else dataclasses.replace(prompts, memory=memory)

    def read_tokens(
        self,
        input: Text | Ids | MaskedTokens,
        attention_mask: AttentionMask | None = None,
        token_types: Ids | None = None,
    ) -> MaskedTokens:
        """As `masked_tokens`, but for the memory, which a run may get from elsewhere.

        `MaskedTokens` are checked as well: another model may have made them.
        """
        padded = memory = None
        if isinstance(input, MaskedTokens):
            for name, given in (("attention_mask", attention_mask), ("token_types", token_types)):
                if given is not None:
                    raise ShapeError(f"MaskedTokens bring their own {name}; give {name}= with ids only")
            tokens, attention_mask, token_types, memory = (
                input.ids,
                input.attention_mask,
                input.token_types,
                input.memory,
            )
        elif isinstance(input, Tensor):
            tokens = input
        elif is_text(input):
            tokens, padded = self.to_tokens_and_mask(input)
            if attention_mask is not None and not padded.all():
                raise ShapeError("texts of unequal length bring their own mask; give attention_mask= with ids only")
        else:
            tokens = as_ids(input, INPUT).to(self.embed.W_E.device)
        tokens = check_tokens(tokens, self.cfg.d_vocab, self.cfg.n_ctx, self.embed.W_E.device)
        mask = check_mask(padded if attention_mask is None else attention_mask, tokens)
        return MaskedTokens(tokens, mask, check_token_types(token_types, tokens, self.cfg.n_token_types), memory)

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

    def masked_pairs(self, first: Text, second: Text, padding_side: str = "left") -> MaskedTokens:
        """Pairs of texts, each in one sequence ("[CLS] first [SEP] second [SEP]"), as every run reads them.

        Tokens of the second text have the type 1 where the model's tokens have types. Raises `TokenError` where the
        tokenizer puts nothing between two texts, and what a run raises for ids.
        """
        tokens, mask, types = self._tokenizer().pairs_to_tokens(first, second, padding_side)
        tokens, mask, types = (one.to(self.embed.W_E.device) for one in (tokens, mask, types))
        return self.masked_tokens(tokens, mask, types if self.cfg.n_token_types > 1 else None)

    @overload
    def to_str_tokens(self, text: Arrays, prepend_bos: bool | None = None) -> Any: ...

    @overload
    def to_str_tokens(self, text: str | OneSequence, prepend_bos: bool | None = None) -> list[str]: ...

    @overload
    def to_str_tokens(self, text: list[str] | tuple[str, ...], prepend_bos: bool | None = None) -> list[list[str]]: ...

    def to_str_tokens(self, text: Text | Ids, prepend_bos: bool | None = None) -> list[str] | list[list[str]]:
        """The tokens of a text, as `to_tokens` makes them, or of a sequence of ids, as strings.

        One text gives a list of strings, and so do ids [pos] or [1, pos]. A list of texts gives a list of such lists,
        and so do ids [batch, pos] of several sequences, or a list of sequences. Texts are not padded here; in ids that
        were padded, the padding is shown like every other token. An id that the model has and its tokenizer lacks is
        shown as its number, "<50280>". Raises `TokenError`.
        """
        given = text if is_text(text) else self._in_range(cast(Ids, text))
        return cast(Any, self._tokenizer().to_str_tokens)(given, prepend_bos)

    @overload
    def to_string(self, tokens: Arrays) -> Any: ...

    @overload
    def to_string(self, tokens: OneSequence) -> str: ...

    def to_string(self, tokens: Ids) -> str | list[str]:
        """The text of one sequence of ids, [pos] or [1, pos]; of several, [batch, pos] or a list of them, a list.

        Special tokens and padding are part of a text; ids without a token are shown as by `to_str_tokens`. Raises
        `TokenError`.
        """
        return self._tokenizer().to_string(self._in_range(tokens))

    def _in_range(self, tokens: Ids) -> list[list[int]]:
        """The ids of each sequence. Raises `TokenError` for an id that the model does not have."""
        return [token_ids(row, None, self.cfg.d_vocab, "token").tolist() for row in sequences(tokens)[0]]

    @overload
    def to_single_token(self, text: str) -> int: ...

    @overload
    def to_single_token(self, text: list[str] | tuple[str, ...]) -> list[int]: ...

    def to_single_token(self, text: Text) -> int | list[int]:
        """The id of a text that is exactly one token, or of each of several. Raises `TokenError` if it is not one."""
        return self._tokenizer().to_single_token(text)

    def to_answer(self, text: str) -> int:
        """The number of the logit that a text of one token means. Raises `TokenError` if it means none."""
        if not self.cfg.has_unembed:
            raise TokenError(f"{text!r} is no answer: this model has no unembedding (d_vocab_out = 0), so no logit")
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
