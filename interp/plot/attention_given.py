"""What a caller gives to `attention`, checked, as stacks of heads with the tokens beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from interp.config import TransformerConfig
from interp.errors import ConfigError, describe
from interp.model import ActivationCache, PairCache
from interp.plot.attention_run import Heads, StackName, answer_ids, comparable, read_run, stacks_of
from interp.plot.attention_stack import AttentionStack, ShownText
from interp.plot.labels import Tokens, read_scores, source_of, token_labels
from interp.plot.style import printable
from interp.text import token_names

START = "(start)"
"""The label of the start token, which a pair puts before the text of a target."""

NO_ANSWER = "give correct=, on the command line --correct"
THROUGH_CROSS = "the encoder writes to no logit: what it does goes through cross-attention"
NO_UNEMBED = "this model has no logits"
THROUGH_HEAD = "a masked-token head with an activation function stands between these heads and the logits"


@dataclass(frozen=True, eq=False)
class Given:
    """Arguments of `attention`; `tokens` are those of its four arguments on tokens, by their names.

    `names` maps names of heads to their codes such as "L1H0".
    """

    cache: ActivationCache | PairCache
    patched: ActivationCache | PairCache | None
    batch: int
    tokens: Mapping[str, Tokens | None]
    names: Mapping[str, str] | None = None

    def stacks(
        self, correct: int | str | None, incorrect: int | str | None, scores: Mapping[str, Any] | None
    ) -> dict[StackName, AttentionStack]:
        """What is shown, by name. Raises as `attention`."""
        clean = stacks_of(self.cache)
        present: list[StackName] = [stack.name for stack in clean]
        several = len(clean) > 1 or isinstance(self.cache, PairCache)
        of_runs = list(zip(clean, *([] if self.patched is None else [self._second(present)]), strict=True))
        answers = None
        if correct is not None:
            if several and present == ["encoder"]:
                raise ConfigError(f"correct= with the encoder's patterns alone: {THROUGH_CROSS}")
            if not clean[-1].cache.cfg.has_unembed:
                raise ConfigError(f"correct= names a token whose logit counts, but {NO_UNEMBED} (d_vocab_out = 0)")
            answers = answer_ids(clean[-1].cache.model, correct, incorrect)
        badges = _by_stack(scores, present)
        texts: dict[str, ShownText] = {}
        found: dict[StackName, AttentionStack] = {}
        for stack, *others in of_runs:
            mute = stack.name == "encoder" and several
            runs = [read_run(one, self.batch, None if mute else answers) for one in (stack, *others)]
            runs = comparable(*runs) if others else runs
            heads, *sizes = runs[0].pattern.shape[1:]
            sides = _sides(stack.name, several)
            for side, n in zip(sides, sizes, strict=True):
                if side not in texts:
                    texts[side] = ShownText(side, self._labels([stack, *others], side, n))
            queries, keys = (texts[side] for side in sides)
            n_layers = stack.cache.cfg.n_layers
            read = read_scores(badges.get(stack.name), runs[0].layers, n_layers, heads)
            answer = None if mute or answers is None else _in_words(stack.cache, answers)
            why = "" if answer else THROUGH_CROSS if mute else _no_answer(stack.cache.cfg)
            names = self._names_in(stack, several)
            found[stack.name] = AttentionStack(stack.name, n_layers, runs, queries, keys, read, answer, why, names)
        self._check_all_used(texts)
        return found

    def _names_in(self, stack: Heads, several: bool) -> dict[str, str]:
        """The names of a stack's heads by their codes, as given or as the model itself declares them.

        A compiled circuit has a mapping of names as its `nodes`. Codes of what is no head are passed over.
        """
        given, side = self.names, ("encoder." if stack.name == "encoder" else "decoder.") * several
        if given is None:
            given, side = getattr(stack.cache.model, "nodes", {}), ""
        if not isinstance(given, Mapping) or not all(isinstance(one, str) for pair in given.items() for one in pair):
            allowed = "a mapping from names to heads, such as {'copy': 'L1H0'}"
            raise ConfigError(f"names = {describe(given)}; allowed: {allowed}")
        return {node.removeprefix(side): printable(name) for name, node in given.items() if node.startswith(side)}

    def _second(self, names: list[StackName]) -> list[Heads]:
        """The stacks of the patched run."""
        assert self.patched is not None
        stacks = stacks_of(self.patched)
        if (others := [stack.name for stack in stacks]) != names:
            raise ConfigError(
                f"the patched run has patterns of {', '.join(others)}; the clean one of {', '.join(names)}: both must "
                "agree"
            )
        return stacks

    def _labels(self, stacks: Sequence[Heads], side: str, n: int) -> list[list[str]]:
        """The tokens of one text in each run."""
        name = "source_tokens" if side == "source" else "tokens"
        labels = []
        for stack, what in zip(stacks, (name, f"patched_{name}"), strict=False):
            read_by = stack.source if side == "source" and stack.name == "cross_attn" else stack.cache
            if labels and self.tokens[what] is None:
                labels.append(labels[0])
            else:
                model, given = None if read_by is None else read_by.model, self.tokens[what]
                if isinstance(given, str) and side == "target" and model is not None:
                    given = model.to_str_tokens(given)
                    given = [START, *given] if len(given) == n - 1 else given  # as a pair reads the text of a target
                labels.append(token_labels(model, given, n, self.batch, what))
        return labels

    def _check_all_used(self, texts: Mapping[str, ShownText]) -> None:
        for name, given in self.tokens.items():
            if given is None:
                continue
            if name.startswith("patched") and self.patched is None:
                raise ConfigError(f"{name}= without patched=")
            if "source" in name and "source" not in texts:
                raise ConfigError(f"{name}= names the tokens that cross-attention reads, and this run has none")
            if "source" not in name and set(texts) == {"source"}:
                raise ConfigError(f"{name}= names the tokens of the target, and only the source is shown")


def _no_answer(cfg: TransformerConfig) -> str:
    """Why there are no contributions to a logit."""
    if not cfg.has_unembed:
        return NO_UNEMBED
    return THROUGH_HEAD if cfg.masked_token_head else NO_ANSWER


def _sides(name: StackName, several: bool) -> tuple[str, str]:
    """The texts that the queries and the keys of a stack are positions of."""
    if name == "cross_attn":
        return "target", "source"
    side = {"encoder": "source", "decoder": "target"}[name] if several else ""
    return side, side


def _in_words(cache: ActivationCache, answers: tuple[int, int | None]) -> str:
    """The logit, or the difference of two, that contributions are to."""
    named = torch.tensor([one for one in answers if one is not None])
    names = token_names(cache.model.output_tokenizer, named)
    return " \u2212 ".join(f"logit “{name}”" for name in names)


def _by_stack(scores: Any, names: list[StackName]) -> Mapping[str, Any]:
    """The scores of each stack: as given by stack, or those of the only one."""
    if is_by_stack(scores):
        if unknown := [name for name in scores if name not in names]:
            raise ConfigError(f"scores of {unknown[0]!r}, whose patterns are not there; allowed: {', '.join(names)}")
        return scores
    if scores is not None and len(names) > 1:
        hint = "" if hasattr(scores, "keys") else "; what the source's tokens are is said by source_tokens="
        raise ConfigError(f"this run has the stacks {', '.join(names)}: give their scores by stack, "
                          f"scores={{{names[-1]!r}: ...}}{hint}")  # fmt: skip
    return {names[0]: scores}


def is_by_stack(scores: Any) -> bool:
    """Whether these are mappings of scores by the names of stacks, and not scores by their own names."""
    if not isinstance(scores, Mapping) or not scores:
        return False
    return all(name in get_args(StackName) and isinstance(of, Mapping) for name, of in scores.items())


def sources_of(scores: Any) -> list[str]:
    """What the scores say of the prompts that they are of, in sentences."""
    return list(dict.fromkeys(map(source_of, scores.values()))) if is_by_stack(scores) else [source_of(scores)]
