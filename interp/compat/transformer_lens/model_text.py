"""Text and generation of a `HookedTransformer` in TransformerLens's words."""

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import interp
from interp.compat.transformer_lens.checks import ensure
from interp.compat.transformer_lens.hook_points import HookedRootModule
from interp.errors import check_choice
from interp.text import Text, is_text


class ReadsText(HookedRootModule):
    """The part of a model that takes text and gives it."""

    core: interp.HookedTransformer
    cfg: Any
    _prompts: Any
    _tokenizer: Any
    W_U: Any

    @property
    def tokenizer(self) -> Any:
        """What turns text into ids and back: as it is when it is used, so that tokens can be added to one that is held.

        Another can be assigned; unlike `set_tokenizer` this gives it no tokens that it has not.
        """
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, given: Any) -> None:
        self._tokenizer, self.core.tokenizer = given, given
        codec = self.core.tokenizer
        self.cfg.tokenizer_prepends_bos = None if codec is None else codec.prepends_bos

    @property
    def padding_side(self) -> str:
        """Where texts of unequal length are padded: the tokenizer's own side."""
        return getattr(self.tokenizer, "padding_side", self._padding_side)

    def set_tokenizer(self, tokenizer: Any, default_padding_side: str = "right") -> None:
        """Take a tokenizer: a fast one of transformers, or one of interp. Raises `TokenError` for anything else."""
        self.tokenizer, self._padding_side = prepared(tokenizer, default_padding_side), default_padding_side

    def to_tokens(
        self,
        input: Text,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch pos"]:
        """Ids of one text or several, padded, and cut to the context with `truncate`."""
        ensure(self.tokenizer is not None, "Cannot use to_tokens without a tokenizer")
        bos, first = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos, self.special_token("bos")
        ensure(not bos or first is not None, "this tokenizer has no first token: say prepend_bos=False")
        texts = [input] if isinstance(input, str) else list(input)
        plain: Any = {"add_special_tokens": False} if _of_transformers(self.tokenizer) else {}
        ids = [[*([first] if bos else []), *self.tokenizer.encode(text, **plain)] for text in texts]
        rows = [torch.tensor(row[: self.cfg.n_ctx if truncate else None]).long() for row in ids]
        side, padding = padding_side or self.padding_side, self.special_token("pad") or 0
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding, padding_side=side)
        return tokens.to(self.core.W_E.device) if move_to_device else tokens

    def special_token(self, name: str) -> int | None:
        """The id of the tokenizer's "bos" or "pad" token, or None."""
        return getattr(self.tokenizer, f"{name}_token_id" if _of_transformers(self.tokenizer) else f"{name}_id", None)

    def _decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        tokenizer = self.tokenizer
        ensure(tokenizer is not None, "Cannot turn tokens into text without a tokenizer")
        if _of_transformers(tokenizer):
            plain = {"clean_up_tokenization_spaces": False}
            return tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, **plain)
        special = (tokenizer.bos_id, tokenizer.pad_id) if skip_special_tokens else ()
        return tokenizer.to_string([token for token in ids if token not in special])

    def to_string(self, tokens: Any) -> Any:
        """The text of ids [pos] or of one id; of ids [batch, pos] a list of texts."""
        ids = torch.as_tensor(np.asarray(tokens) if isinstance(tokens, list) else tokens)
        if ids.ndim > 2:
            raise ValueError(f"Invalid shape passed in: {tuple(ids.shape)}")
        return [self._decode(row) for row in ids.tolist()] if ids.ndim == 2 else self._decode(ids.flatten().tolist())

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None, padding_side: str | None = None) -> Any:
        """The tokens of a text or of ids [pos] or [1, pos], each as text; of a list, a list for each of its items."""
        if isinstance(input, list):
            return [self.to_str_tokens(one, prepend_bos, padding_side) for one in input]
        if isinstance(input, int):
            return self.to_str_tokens(torch.tensor([input]))
        ids = self.to_tokens(input, prepend_bos, padding_side)[0] if isinstance(input, str) else torch.as_tensor(input)
        ids = ids.squeeze()
        ensure(ids.ndim <= 1, f"Invalid tokens input to to_str_tokens, has shape: {tuple(ids.shape)}")
        return [self._decode([token]) for token in ids.flatten().tolist()]

    def to_single_token(self, string: str) -> int:
        """The id of a text that is one token. Raises `LensError` for any other."""
        tokens = self.to_tokens(string, prepend_bos=False)
        ensure(tokens.numel() == 1, f"Input string: {string} is not a single token!")
        return int(tokens)

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one id."""
        return self._decode([int_token])

    def get_token_position(
        self,
        single_token: str | int | Tensor,
        input: str | Tensor,
        mode: str = "first",
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> int:
        """Where a token stands in a text, or in ids [pos] or [1, pos]: its first place, or its last."""
        check_choice("mode", mode, ("first", "last"))
        ids = self.to_tokens(input, prepend_bos, padding_side) if isinstance(input, str) else torch.as_tensor(input)
        ensure(ids.ndim == 1 or len(ids) == 1, f"tokens of rank two need shape [1, pos], not {tuple(ids.shape)}")
        wanted = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        places = (ids.flatten() == wanted).nonzero().flatten().tolist()
        ensure(bool(places), "The token does not occur in the prompt")
        return places[0 if mode == "first" else -1]

    def tokens_to_residual_directions(self, tokens: Any) -> Float[Tensor, "... d_model"]:
        """The columns of `W_U` of tokens; of one token (text, id, or a tensor of one) [d_model]."""
        ids = torch.as_tensor(self.to_single_token(tokens) if isinstance(tokens, str) else tokens)
        return self.W_U.T[ids.to(self.W_U.device) if ids.numel() > 1 else int(ids)]

    # ------------------------------------------------------------------ generation

    def generate(
        self,
        input: Any = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | list[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        return_type: str | None = "input",
        verbose: bool = True,
    ) -> Any:
        """Prompts and continuations: text for text, ids for ids, or as `return_type` "str" or "tokens" says.

        A sequence that reached the end token goes on with it. As in TransformerLens padding is attended to, at which a
        continuation of texts of unequal length differs from that of each alone; `core.generate` masks it. Keys and
        values are always kept. Raises `ConfigError` for a `freq_penalty`, and as the core's `generate`.
        """
        check_choice("return_type", return_type, ("input", "str", "tokens"))
        ensure(freq_penalty == 0, "freq_penalty is not covered by interp.compat.transformer_lens")
        tokens, _ = self._prompts(input, prepend_bos, padding_side, None, False)
        stops, padding = self._stops(eos_token_id) if stop_at_eos else ([], 0)
        options: Any = {"stop_tokens": stops, "progress": verbose}
        if do_sample and temperature != 0:
            options |= {"temperature": temperature, "top_k": top_k, "top_p": None if top_k else top_p}
        found = self.core.generate(tokens, max_new_tokens, **options)
        ended = torch.isin(found.tokens, torch.tensor(stops, device=tokens.device, dtype=tokens.dtype))
        ended[:, : found.n_prompt] = False
        tokens = torch.where(ended.cumsum(dim=1) > 1, padding, found.tokens)  # a core's sequence repeats its own end
        if return_type == "tokens" or (return_type == "input" and not is_text(input)):
            return tokens
        texts = [self._decode(row, skip_special_tokens=True) for row in tokens.tolist()]
        return texts[0] if len(texts) == 1 else texts

    def _stops(self, eos_token_id: int | list[int] | None) -> tuple[list[int], int]:
        """The tokens that end a sequence, and the one that fills it up afterwards."""
        own = getattr(self.tokenizer, "eos_token_id", None)
        if own is None and (eos := getattr(self.tokenizer, "eos", None)) is not None:
            own = self.core.tokenizer.to_single_token(eos)  # pyright: ignore[reportOptionalMemberAccess]
        eos_token_id = own if eos_token_id is None else eos_token_id
        ensure(eos_token_id is not None, "stop_at_eos=True needs eos_token_id, or a tokenizer with an end token")
        stops = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        return stops, stops[0] if own is None or isinstance(eos_token_id, int) else own


def _of_transformers(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "convert_ids_to_tokens")


def prepared(tokenizer: Any, padding_side: str) -> Any:
    """A copy of a tokenizer of transformers that has first, last and padding tokens; others as they are."""
    check_choice("default_padding_side", padding_side, ("left", "right"))
    if not _of_transformers(tokenizer):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = padding_side
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.eos_token
    return tokenizer
