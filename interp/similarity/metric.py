"""The cosine with given vectors as a metric of a run."""

import json
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, ShapeError, describe
from interp.metrics import JudgedRun, Metric, MetricPlan, key_of
from interp.model import LinearPooling, pooling_weights
from interp.similarity.vectors import linear_pooling


@dataclass(frozen=True, eq=False)
class Similarity(Metric):
    """The cosine of a run's pooled vector with another vector, as `cosine_similarity` has it.

    It reads the last stream and no logits, so that a model without an unembedding can be patched with it. Two are equal
    if their poolings and the bits of their references are.

    Attributes:
        reference: what each prompt is compared with, [d_model] or one for each, [batch, d_model], such as
            `embeddings(model, text)` returns. Its length does not matter.
        pooling: "mean" or "cls"; None for the model's own.

    >>> from interp.patching import sweep
    >>> alike = Similarity(embeddings(model, clean, pooling="mean")[0], pooling="mean")
    >>> effect = sweep(model, corrupted, clean, alike, "resid_post", ("layer",), progress=False)
    >>> round(effect.attrs["target"], 4)  # the clean text is like itself
    1.0
    """

    reference: Float[Tensor, "*batch d_model"]
    pooling: LinearPooling | None = None

    def __post_init__(self) -> None:
        given = self.reference
        if not isinstance(given, Tensor) or not given.is_floating_point() or given.ndim not in (1, 2):
            raise ShapeError(f"reference = {describe(given)}; allowed: vectors [d_model] or [batch, d_model], such as "
                             "interp.similarity.embeddings(model, text)")  # fmt: skip
        object.__setattr__(self, "reference", given.detach())

    @cached_property
    def _identity(self) -> tuple[str, str | None]:
        return json.dumps(key_of(self.reference, "the reference")), self.pooling

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Similarity) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs the last stream at every position, or at the first token.

        Raises `ConfigError` without a model, and for a pooling that is none of the two; `ShapeError` for references
        that do not fit the prompts or the stream.
        """
        if run.cfg is None:
            raise ConfigError("Similarity reads the last stream, not logits; it is for interp.patching and "
                              "run_with_cache(gradient_of=)")  # fmt: skip
        pooling, is_token = linear_pooling(run.cfg, self.pooling), run.prompts.is_token
        wanted = (len(run.prompts), run.cfg.d_model)
        given = self.reference.to(is_token.device)
        if given.shape[-1] != wanted[1] or (given.ndim == 2 and len(given) not in (1, wanted[0])):
            raise ShapeError(f"reference has shape {tuple(given.shape)}; allowed: [{wanted[1]}], or one for each of "
                             f"{wanted[0]} prompts, {list(wanted)}")  # fmt: skip
        references = given.expand(wanted)
        places = torch.arange(is_token.shape[1], device=is_token.device).expand(is_token.shape)
        if pooling == "cls":
            places = is_token.int().argmax(dim=1, keepdim=True)
        weights = pooling_weights(is_token, pooling, torch.float64).gather(1, places)

        def score(streams: Tensor, rows: Tensor) -> Tensor:
            pooled = (streams * weights[rows].to(streams)[..., None]).sum(dim=1)
            return F.cosine_similarity(pooled, references[rows].to(streams), dim=-1)

        return MetricPlan(f"cosine similarity ({pooling})", places, None, score, space="stream")
