"""Loss over a corpus under an intervention: how much of what a place does for the loss the intervention keeps.

Losses are sums over every next token of every text, so that each token has the same weight. Beside their sums the
products of the texts' sums are kept, from which intervals over texts follow; nothing else grows with the corpus.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.budget import BLOCK_BYTES
from interp.data import Texts
from interp.errors import ConfigError, TokenError, describe
from interp.harvest.corpus import BATCH, UNIT_TOKENS, CorpusWork, Cut
from interp.harvest.tokens import TokenUnit
from interp.interventions import ADDRESS, Intervention, Interventions, Zero
from interp.jobs import AnyModel, JobOptions, ModelRef, as_anywhere, check_options, run
from interp.keywords import known_keywords
from interp.metrics import key_of
from interp.model import check_predicts_next_token, cross_entropy, layer_of, predicted_places
from interp.progress import progress_bar
from interp.results import as_variables, check_confidence, t_quantile
from interp.text import MaskedTokens

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Ablations = Intervention | Sequence[Intervention] | Mapping[str, Intervention]
"""One ablation, several, or several by name."""

ZERO = Zero()

AS_IT_IS, INTERVENED = "as it is", "intervened"
"""The runs that there are always; the others have the names of ablations."""


@known_keywords
def loss_recovered(
    model: AnyModel,
    texts: Texts | Iterable[Any],
    intervention: Intervention | Interventions,
    *,
    ablations: Ablations = ZERO,
    n_ctx: int = 128,
    packed: bool = True,
    batch: int = BATCH,
    unit_tokens: int = UNIT_TOKENS,
    confidence: float = 0.95,
    **options: Unpack[JobOptions],
) -> "xarray.Dataset":
    """The loss of a model as it is, under an intervention, and with the same place ablated.

        loss_recovered(model, texts, Apply(autoencoder, site="resid_post", layer=12), ablations=[Zero(), Mean(store)])

    The fraction recovered of an ablation is (ablated - intervened) / (ablated - as it is): 1 if the intervention leaves
    the loss as it is, 0 if it is as bad as the ablation (Bricken et al. 2023, "Towards Monosemanticity").

    Args:
        model: a model, the name or the folder of one, or a `jobs.ModelRef`.
        texts: a corpus, or several texts, or token ids; see `interp.data.Texts`.
        intervention: such as what an autoencoder makes of a site.
        ablations: what is written in its place in other runs, without a place of their own, such as `Zero()` and
            `Mean(store)`. By name where a kind comes twice: {"half": Apply(half), "twice": Apply(twice)}.
        n_ctx, packed, batch, unit_tokens: how the corpus is cut; see `harvest`.
        confidence: of the intervals over texts.
        options: see `JobOptions`. With a `folder` this is a job that goes on where it ended; functions in the
            intervention are then known by their code, and modules by their name and weights: Named(module, "a name").

    Returns:
        `loss` by `run` ("as it is", "intervened", and the ablations by their names or kinds, such as "zero"), in nats a
        token: the mean over all tokens that have one before them in their row. `recovered` by `ablation`; NaN where an
        ablation does not change the loss. With two texts or more `loss_ci_low`, `loss_ci_high`, `recovered_ci_low` and
        `recovered_ci_high`: intervals over texts, which differ in length, by linearisation and Student's t. `attrs`:
        the intervention, the number of tokens predicted and of texts, the model's hash, n_ctx, packed, confidence.

    Raises, before any run:
        ConfigError: an option out of range, an intervention or an ablation that does not fit, a model with hooks or
            whose logits are not of the next token.
        HookNotFoundError, CacheError: as the interventions raise.
        TokenError: a corpus in which no token has another one before it, or a text that cannot be read.
        CheckpointError, JobError: as `harvest`.
    """
    check_options(options)
    check_confidence(confidence)
    cut = Cut(n_ctx=n_ctx, packed=packed, batch=batch, unit_tokens=unit_tokens)
    ref = ModelRef.of(model)
    live = ref.load()
    check_predicts_next_token(live.cfg, "loss_recovered")
    runs = _runs(live, intervention, ablations)
    folder, progress = options.get("folder"), options.get("progress", True)
    if folder is None and options.get("workers", 1) == 1:
        with as_anywhere(options.get("threads", 1)), _counting(progress) as ran:
            sums = Sums.over(_losses(live, unit, runs, cut.batch, ran) for unit in cut.units(texts, ref))
    else:
        sums = _as_job(ref, texts, runs, cut, folder, progress, options)
    if not sums.total[-1]:
        raise TokenError("a loss needs a row of at least two tokens: one that predicts and one that is predicted")
    about = {"intervention": repr(intervention), "n_tokens": int(sums.total[-1]), "n_texts": sums.n_texts,
             "model": ref.hash, "n_ctx": n_ctx, "packed": packed}  # fmt: skip
    return _result(sums, list(runs), confidence, about)


@contextmanager
def _counting(progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar that counts tokens; how many there will be is not known, since the texts are read as they are run."""
    n_tokens = 0
    with progress_bar("running texts", None, progress) as advance:

        def ran(n: int) -> None:
            nonlocal n_tokens
            n_tokens += n
            advance(0, f"{n_tokens:,} tokens")

        yield ran


def _as_job(
    ref: ModelRef,
    texts: Any,
    runs: Mapping[str, Interventions],
    cut: Cut,
    folder: Any,
    progress: bool,
    options: JobOptions,
) -> "Sums":
    with tempfile.TemporaryDirectory(prefix="interp-job-") as gone:
        path = Path(gone if folder is None else folder)
        work = LossWork(ref, cut.write(texts, ref, path, progress), cut.batch, tuple(runs.items()))
        with run(work, **{**options, "folder": path}) as job:
            return Sums.over(job.results())


def _runs(
    model: "HookedTransformer", intervention: Intervention | Interventions, ablations: Ablations
) -> dict[str, Interventions]:
    """What is done in each run, by the name of the run. Raises as `loss_recovered`."""
    if not isinstance(intervention, Intervention | Interventions) or (
        isinstance(intervention, Interventions) and not len(intervention)
    ):
        raise ConfigError(f"intervention = {describe(intervention)}; allowed: one of interp.interventions, or several")
    items = tuple(intervention) if isinstance(intervention, Interventions) else (intervention,)
    runs = {AS_IT_IS: Interventions(), INTERVENED: Interventions(items)}
    for name, ablation in _named(ablations):
        if not isinstance(ablation, Intervention) or any(getattr(ablation, word) is not None for word in ADDRESS):
            raise ConfigError(f"ablations: {describe(ablation)}; allowed: Zero(), Mean(store) and the like, without a "
                              "place: they are written where the intervention writes")  # fmt: skip
        if name in runs:
            raise ConfigError(f"ablations: two runs would be called {name!r}; give names, {{'a name': {ablation!r}}}")
        places = [{word: getattr(item, word) for word in ADDRESS} for item in items]
        runs[name] = Interventions(tuple(dataclasses.replace(ablation, **place) for place in places))
    for edits in runs.values():
        edits.hooks(model)
    return runs


def _named(ablations: Ablations) -> list[tuple[str, Intervention]]:
    """Ablations with their names: those given, or their kinds."""
    if isinstance(ablations, Mapping):
        return [(str(name), ablation) for name, ablation in ablations.items()]
    several = [ablations] if isinstance(ablations, Intervention) else list(ablations)
    return [(type(ablation).__name__.lower(), ablation) for ablation in several]


@dataclass(frozen=True, eq=False)
class LossWork(CorpusWork):
    """The losses of a corpus in several runs.

    Attributes:
        runs: the name of each run, and what is done in it.
    """

    runs: tuple[tuple[str, Interventions], ...]

    def specification(self) -> dict[str, Any]:
        """What is done in the runs, too."""
        runs = [[name, key_of(edits, "the intervention")] for name, edits in self.runs]
        return {"analysis": "loss", **super().specification(), "runs": runs}

    def compute(self, unit: int) -> dict[str, Any]:
        """The sums of a unit."""
        return _losses(self.model.load(), self.tokens.unit(unit), dict(self.runs), self.batch)


# ---------------------------------------------------------------------- losses of one unit


@torch.no_grad()
def _losses(
    model: "HookedTransformer",
    unit: TokenUnit,
    runs: Mapping[str, Interventions],
    batch: int,
    ran: Callable[[int], None] = lambda n: None,
) -> dict[str, Tensor]:
    """Of each text: its number, how many of its tokens are predicted, and the sum of their losses in each run.

    `ran` is told of each batch how many tokens it had.
    """
    numbers, of_text = unit.text.long().unique_consecutive(return_inverse=True)
    sums = torch.zeros(len(runs), len(numbers), dtype=torch.float64)
    n_predicted = torch.zeros(len(numbers), dtype=torch.float64)
    first = _first_layer(model, runs.values())
    for prompts, place in unit.batches(batch, model.W_E.device):
        if prompts.ids.shape[1] < 2:
            continue
        predicted = predicted_places(prompts.is_token)
        text = torch.zeros(prompts.ids.shape, dtype=torch.long)
        text[place.real.cpu()] = of_text[place.tokens]
        text = text[:, 1:][predicted.cpu()]
        n_predicted.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))
        stream = model.base_run(prompts, stop_at_layer=first) if first else None
        for losses, edits in zip(sums, runs.values(), strict=True):
            with model.intervene(*edits):
                found = _of_tokens(model, prompts, stream, first)
            losses.index_add_(0, text, found[predicted].double().cpu())
        ran(place.tokens.stop - place.tokens.start)
    return {"text": numbers, "n_predicted": n_predicted, "losses": sums}


def _first_layer(model: "HookedTransformer", runs: Iterable[Interventions]) -> int:
    """The first layer in which any of the runs is edited: up to there they are one run."""
    names = [cast(str, name) for edits in runs for name, _ in edits.hooks(model)]
    layers = [model.cfg.n_layers if name.startswith("ln_final") else layer_of(name) or 0 for name in names]
    return min(layers, default=0)


def _of_tokens(
    model: "HookedTransformer", prompts: MaskedTokens, stream: Tensor | None, first: int
) -> Float[Tensor, "row predicted"]:
    """The loss of every next token, in float32 at least; logits are held for some positions at a time."""
    targets = prompts.ids[:, 1:]

    def read_out(read: Float[Tensor, "row pos d_model"]) -> Tensor:
        at_once = max(1, BLOCK_BYTES // (4 * model.cfg.d_vocab_out))
        parts = zip(read[:, :-1].flatten(0, 1).split(at_once), targets.flatten().split(at_once), strict=True)
        losses = [cross_entropy(model.unembed(part[None]), wanted[None])[0] for part, wanted in parts]
        return torch.cat(losses).view(targets.shape)

    if stream is None:
        return cast(Tensor, model.base_run(prompts, read_out))
    mask = prompts.attention_mask
    return cast(Tensor, model.base_run(stream, read_out, start_at_layer=first, attention_mask=mask))


# ---------------------------------------------------------------------- sums over all units


@dataclass(eq=False)
class Sums:
    """Sums over texts, in float64 and in the order of the units.

    Attributes:
        total: of each run's losses, and last of the tokens predicted.
        products: the sums over texts of the products of any two of these.
        n_texts: of which a token was predicted.
    """

    total: np.ndarray
    products: np.ndarray
    n_texts: int

    @classmethod
    def over(cls, units: Iterable[Mapping[str, Tensor]]) -> "Sums":
        """The sums over units. A text may go on from one into the next."""
        sums: Sums | None = None
        for texts in _whole_texts(units):
            if sums is None:
                n = texts.shape[1]
                sums = cls(np.zeros(n), np.zeros((n, n)), 0)
            texts = texts[texts[:, -1] > 0]
            sums.total += texts.sum(0)
            sums.products += texts.T @ texts
            sums.n_texts += len(texts)
        assert sums is not None  # a corpus without a token is refused
        return sums

    def ratio(self, above: np.ndarray, below: np.ndarray, confidence: float) -> tuple[float, float]:
        """A ratio of two weighted sums, and half the width of its interval over texts.

        The interval is that of the linearised ratio: of the mean over texts of (above - ratio * below). With weights
        over `total`. It is NaN with a single text, and both are NaN where `below` sums to 0.
        """
        bottom = float(below @ self.total)
        if bottom == 0:
            return float("nan"), float("nan")
        ratio = float(above @ self.total) / bottom
        if self.n_texts < 2:
            return ratio, float("nan")
        off = above - ratio * below
        spread = max(0.0, float(off @ self.products @ off)) * self.n_texts / (self.n_texts - 1)
        return ratio, t_quantile((1 + confidence) / 2, self.n_texts - 1) * spread**0.5 / abs(bottom)


def _whole_texts(units: Iterable[Mapping[str, Tensor]]) -> Iterator[np.ndarray]:
    """For some texts at a time, the losses of each text in each run and how many tokens were predicted."""
    last, held = -1, None
    for unit in units:
        texts = torch.cat([unit["losses"], unit["n_predicted"][None]]).T.contiguous().numpy().copy()
        if held is not None and int(unit["text"][0]) == last:
            texts[0] += held
        elif held is not None:
            yield held[None]
        yield texts[:-1]
        last, held = int(unit["text"][-1]), texts[-1]
    if held is not None:
        yield held[None]


def _result(sums: Sums, names: list[str], confidence: float, about: dict[str, Any]) -> "xarray.Dataset":
    import xarray

    one = np.eye(len(names) + 1)
    losses = {name: sums.ratio(one[i], one[-1], confidence) for i, name in enumerate(names)}
    as_it_is, intervened, *ablated = one[:-1]
    fractions = {
        name: sums.ratio(row - intervened, row - as_it_is, confidence)
        for name, row in zip(names[2:], ablated, strict=True)
    }
    found: dict[str, xarray.DataArray] = {}
    for name, axis, values in (("loss", "run", losses), ("recovered", "ablation", fractions)):
        middle, margin = np.array(list(values.values())).reshape(-1, 2).T
        array = xarray.DataArray(middle, dims=[axis], coords={axis: list(values)}, name=name)
        if sums.n_texts > 1:
            array = array.assign_coords(ci_low=(axis, middle - margin), ci_high=(axis, middle + margin))
        found |= as_variables(name, array)
    return xarray.Dataset(found, attrs=about | {"confidence": confidence})
