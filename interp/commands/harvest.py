"""`interp harvest`: the activations of a corpus, kept on disk, as a job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from interp.commands.common import MODEL, ModelName, Quiet
from interp.commands.working import (
    Device,
    Folder,
    Part,
    Threads,
    Workers,
    check_folder,
    engine_of,
    reference,
    said_where_work_is_left,
)
from interp.errors import ConfigError, HookNotFoundError, did_you_mean

if TYPE_CHECKING:
    from interp.model import HookedTransformer, HookName

HELP = """Run a model over texts, and keep what flows through some of its sites: a row for every token.

Texts are files, folders or globs: .txt, .md, .rst and .py hold one text each, .jsonl an object with a text a line.
How much will be written is said before the first run. The work is cut into units, which are kept in --folder:
interrupted or killed, the same command goes on where it was, and any number of --workers, or of machines with a --part
each, give the same bits. interp jobs status says how far it is, and interp.harvest.Store reads the folder.

A site is named with its layer behind a colon, or in full, or by a glob that may fit several.

Example: interp harvest --texts docs/ --site resid_post:12 --folder layer-12 --workers 2

Example: interp harvest --texts a.txt --texts b.jsonl --site z:3 --site '*hook_mlp_out' --folder store --dtype bfloat16
"""


def harvest(
    texts: Annotated[list[str], typer.Option(help="A file, a folder or a glob; may be given several times.")],
    site: Annotated[list[str], typer.Option(help="Such as resid_post:12; may be given several times.")],
    folder: Folder,
    model: ModelName = MODEL,
    device: Device = None,
    dtype: Annotated[str, typer.Option(help="In which numbers are kept: float16, bfloat16 or float32.")] = "float16",
    n_ctx: Annotated[int, typer.Option("--n-ctx", help="Tokens that run together.", min=1)] = 128,
    packed: Annotated[
        bool, typer.Option("--packed/--one-a-row", help="Whether texts follow one another, or each begins a new row.")
    ] = True,
    unit_tokens: Annotated[int, typer.Option(help="How many tokens are computed and kept together.", min=1)] = 16_384,
    column: Annotated[str, typer.Option(help="The field of .jsonl that has the text.")] = "text",
    workers: Workers = 1,
    threads: Threads = 1,
    part: Part = None,
    quiet: Quiet = False,
) -> None:
    """Keep activations, and print what there is of them."""
    from interp.data import Texts
    from interp.harvest import StoreDtype
    from interp.harvest import harvest as kept

    chosen: Any = dtype
    if dtype not in (allowed := get_args(StoreDtype)):
        raise ConfigError(f"--dtype {dtype!r}; allowed: {', '.join(allowed)}{did_you_mean(dtype, allowed)}")
    engine, folder = engine_of(workers, part), check_folder(folder)
    corpus = Texts.read(texts, column=column)
    ref = reference(model, device, quiet)
    sites = [_site(ref.load(), given) for given in site]
    with said_where_work_is_left(part, folder):
        store = kept(ref, corpus, sites, dtype=chosen, n_ctx=n_ctx, packed=packed, unit_tokens=unit_tokens,
                     folder=folder, workers=engine, threads=threads, progress=not quiet)  # fmt: skip
    typer.echo(f"{len(store):,} tokens, each with")
    for name in store.sites:
        typer.echo(f"  {name} {list(store[name].shape[1:])}")
    typer.echo(f"Wrote {folder}, for interp.harvest.Store.open.")


def _site(model: HookedTransformer, given: str) -> HookName:
    """The hook point, or the glob, that `--site` names. Raises `HookNotFoundError`."""
    word, *place = given.split(":")
    name: Any = given
    if place and place[0].removeprefix("-").isdecimal():
        name = (word, int(place[0]), *place[1:])
    try:
        model.resolve_hooks(name)
    except HookNotFoundError as error:
        said = re.sub(r"\('(\w+)', (-?\d+)(?:, '(\w+)')?\)", _as_option, str(error))
        raise HookNotFoundError(f"--site {said}") from error
    return name


def _as_option(short: re.Match[str]) -> str:
    """A short name as it is given to `--site`."""
    return repr(":".join(filter(None, short.groups())))
