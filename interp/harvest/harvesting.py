"""Harvesting: the activations of every token of a corpus, at some sites, kept on disk."""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import torch
from torch import Tensor

from interp.data import Texts
from interp.errors import ConfigError, RangeError, check_choice, describe
from interp.harvest.corpus import BATCH, UNIT_TOKENS, CorpusWork, Cut
from interp.harvest.store import ABOUT, Store
from interp.indices import check_count, counted
from interp.jobs import AnyModel, JobOptions, ModelRef, check_options, run
from interp.keywords import known_keywords
from interp.model import HookName, HookPoint

if TYPE_CHECKING:
    from interp.model import HookedTransformer

StoreDtype = Literal["float16", "bfloat16", "float32"]
"""In which precision activations are kept."""

Sites = HookName | Sequence[HookName]
"""One hook point, or several, named in any form."""

OF_A_TOKEN = 3 * 4
"""Bytes that are kept of each token beside its activations: its id, the number of its text, and its position."""


@known_keywords
def harvest(
    model: AnyModel,
    texts: Texts | Iterable[Any],
    sites: Sites,
    *,
    dtype: StoreDtype = "float16",
    n_ctx: int = 128,
    packed: bool = True,
    batch: int = BATCH,
    unit_tokens: int = UNIT_TOKENS,
    **options: Unpack[JobOptions],
) -> Store:
    """Run a model over texts, and keep what flows through some sites: a row for every token.

        store = harvest("smollm2-135m-instruct", Texts.read("corpus/"), ("resid_post", 12), folder="layer-12")

    This is a job (see `interp.jobs`): its units are files in the folder, and the same call goes on from those that are
    there. The texts are read once, into files of tokens in that folder, so that workers need nothing but it. Each run
    ends at the last of the sites. How much will be kept is said on standard error before the first run, unless
    `progress` is False; `harvest_size` says it without a run.

    Args:
        model: a model, the name or the folder of one, or a `jobs.ModelRef`.
        texts: a corpus, or several texts, or token ids; see `interp.data.Texts`.
        sites: hook points whose axes begin with batch and pos, such as ("resid_post", 12), ("z", 3) or "*hook_mlp_out".
        dtype: in which activations are kept.
        n_ctx: tokens of a row, all of which see those before them in the row.
        packed: whether several texts share a row (see `Texts.rows`); not in a model with bidirectional attention, which
            would make one text of them. Padding is not kept.
        batch: how many rows run at a time.
        unit_tokens: how many tokens a unit has; of a row that is longer, the row.
        options: `folder` is needed; see `JobOptions` for it and workers, threads, retries and progress.

    Raises, before any run:
        ConfigError: an option out of range, a site without a row a token (an attention pattern), a model with hooks,
            packed texts where attention looks both ways, too little room on the disk.
        HookNotFoundError: a name that fits no point.
        TokenError: a corpus without tokens, or a text that cannot be read.
        CheckpointError: the folder has another job; what differs is named.
    And at the end:
        JobError: units failed, such as one in which float16 overflows; or they are missing because they are another
            part's.
    """
    check_choice("dtype", dtype, get_args(StoreDtype))
    check_options(options)
    cut = Cut(n_ctx=n_ctx, packed=packed, batch=batch, unit_tokens=unit_tokens)
    if not isinstance(given := options.get("folder"), str | os.PathLike):
        raise ConfigError(f"folder = {describe(given)}; a harvest needs a folder of its own, folder='...'")
    ref, folder, progress = ModelRef.of(model), Path(given).expanduser(), options.get("progress", True)
    live = ref.load()
    names = [point.key for point in points_of(live, sites)]
    if packed and live.cfg.attention_dir == "bidirectional":
        raise ConfigError("packed = True: with attention_dir = 'bidirectional' the texts of a row would see one "
                          "another; say packed=False (in a shell --one-a-row)")  # fmt: skip
    tokens = cut.write(texts, ref, folder, progress)
    work = HarvestWork(ref, tokens, cut.batch, tuple(names), dtype)
    size = harvest_size(ref, names, tokens.n_tokens, dtype)
    _check_room(folder, size)
    if progress:
        print(
            f"harvesting {counted(tokens.n_tokens, 'token')} at {counted(len(names), 'site')} into {folder}: "
            f"{size / 1e6:,.1f} MB in {dtype}, {counted(tokens.n_units, 'unit')}",
            file=sys.stderr,
        )
    with run(work, **options):
        return Store.open(folder)


@known_keywords
def harvest_size(model: AnyModel, sites: Sites, n_tokens: int, dtype: StoreDtype = "float16") -> int:
    """How many bytes a harvest of so many tokens keeps, its tokens included. Raises as `harvest`."""
    check_choice("dtype", dtype, get_args(StoreDtype))
    live, n_tokens = ModelRef.of(model).load(), check_count("n_tokens", n_tokens, least=0)
    numbers = sum(_numbers(live, point) for point in points_of(live, sites))
    return n_tokens * (numbers * getattr(torch, dtype).itemsize + OF_A_TOKEN)


def points_of(model: "HookedTransformer", sites: Sites) -> list[HookPoint]:
    """The points that sites name, in the order of execution. Raises `HookNotFoundError` and `ConfigError`."""
    if sites is None:
        raise ConfigError("sites = None; name the hook points to keep, such as ('resid_post', 12)")
    if model.cfg.cross_attention:
        raise ConfigError("this decoder attends to a source, and a harvest reads single texts; run_with_cache of an "
                          "encoder with a decoder keeps what flows through both")  # fmt: skip
    found = [model.hook_points[name] for name in model.resolve_hooks(sites)]
    for point in found:
        if point.axes[:2] != ("batch", "pos") or {"query_pos", "key_pos"} & set(point.axes):
            raise ConfigError(
                f"{point.name} has the axes {' '.join(point.axes)}: a harvest keeps a row for each token, so it takes "
                "points whose axes begin with batch and pos; the patterns of a run are in its cache"
            )
        if point.key == "hook_tokens":
            raise ConfigError("hook_tokens holds token ids, which a harvest keeps anyway")
    return found


def _numbers(model: "HookedTransformer", point: HookPoint) -> int:
    """How many numbers a point has for a token."""
    total = 1
    for axis in point.axes[2:]:
        total *= model.axis_sizes.get(axis, 1)
    return total


def _check_room(folder: Path, size: int) -> None:
    """Raise `ConfigError` if what is still to be computed does not fit on the disk."""
    done = sum(file.stat().st_size for file in folder.glob("unit-*.safetensors"))
    free = shutil.disk_usage(folder).free
    if size - done > free:
        raise ConfigError(
            f"folder = {str(folder)!r}: {(size - done) / 1e9:,.2f} GB are to be written, and {free / 1e9:,.2f} GB are "
            "free; keep fewer sites, or give a folder on another disk"
        )


@dataclass(frozen=True, eq=False)
class HarvestWork(CorpusWork):
    """The activations of a corpus.

    Attributes:
        sites: full names.
        dtype: in which they are kept.
    """

    sites: tuple[str, ...]
    dtype: StoreDtype

    def specification(self) -> dict[str, Any]:
        """The sites and their precision, too."""
        return {"analysis": "harvest", **super().specification(), "sites": list(self.sites), "dtype": self.dtype}

    @torch.no_grad()
    def compute(self, unit: int) -> dict[str, Any]:
        """A row a token of every site, and beside it the token, the number of its text, and its position.

        Raises `RangeError` naming a site whose numbers are too large for the dtype.
        """
        model, tokens = self.model.load(), self.tokens.unit(unit)
        kept: dict[str, list[Tensor]] = {name: [] for name in self.sites}
        dtypes: dict[str, str] = {}
        for prompts, batch in tokens.batches(self.batch, model.W_E.device):
            _, cache = model.base_run_with_cache(prompts, None, names_filter=list(self.sites))
            for name, parts in kept.items():
                rows = cache[name][batch.real]
                dtypes[name] = str(rows.dtype).removeprefix("torch.")
                parts.append(self._narrowed(name, rows))
        made: dict[str, Any] = {name: torch.cat(parts) for name, parts in kept.items()}
        about = {"signature": self.model.signature, "n_layers": model.cfg.n_layers, "ran_in": dtypes}
        return made | {"token": tokens.ids, "text": tokens.text, "pos": tokens.pos, ABOUT: about}

    def _narrowed(self, name: str, rows: Tensor) -> Tensor:
        """Rows in the dtype of the store."""
        narrow = rows.to(getattr(torch, self.dtype)).cpu()
        if narrow.isinf().any() and (bad := narrow.isinf() & rows.isfinite().cpu()).any():
            largest = float(rows[bad.to(rows.device)].abs().max())
            others = [dtype for dtype in get_args(StoreDtype) if largest < torch.finfo(getattr(torch, dtype)).max]
            raise RangeError(
                f"{name} has {largest:.4g}, which {self.dtype} does not hold; harvest it with "
                f"{' or '.join(f'dtype={dtype!r}' for dtype in others) or 'other weights'}"
            )
        return narrow
