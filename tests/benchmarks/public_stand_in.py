"""What a public notebook or test finds in place of its surroundings; `public_work.py` says the whole.

`prepare` lets `transformer_lens` mean `interp.compat.transformer_lens`, gives random models for names of published
ones, refuses the network, draws nothing, and lets packages that are not installed be imported. `judge` says of an
exception whether the work could not run here at all, and why. Loaded with `pytest -p public_stand_in`, this file does
the same for a file of tests, and writes the outcome of each to `--public-out`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import socket
import sys
import types
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRAWING = ("circuitsvis", "neel_plotly", "pysvelte", "matplotlib", "seaborn", "altair", "bokeh", "streamlit", "gradio")
"""Packages that draw. Where one is not installed, a cell goes on without the picture."""
DATA = ("datasets", "gdown", "wget", "kaggle", "zenodo_get")
"""Packages that download data. Where one is not installed, calling it says so."""
OTHERS = ("torchtyping",)
"""Packages that annotate. Where one is not installed, it does nothing."""

GPT2 = {"n_layers": 12, "n_heads": 12, "d_model": 768, "n_ctx": 1024, "d_vocab": 50257, "act_fn": "gelu_new"}
NEOX = {"n_layers": 6, "n_heads": 8, "d_model": 512, "n_ctx": 2048, "d_vocab": 50304, "act_fn": "gelu"}
NEOX |= {"positional_embedding_type": "rotary", "rotary_dim": 16, "parallel_attn_mlp": True}
SMALL = {"n_layers": 1, "n_heads": 8, "d_model": 512, "n_ctx": 1024, "d_vocab": 48262, "act_fn": "gelu"}
SHORT = SMALL | {"attn_only": True, "positional_embedding_type": "shortformer"}
STORIES = {"n_layers": 8, "n_heads": 16, "d_model": 64, "n_ctx": 2048, "d_vocab": 50257, "act_fn": "gelu_new"}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt2-small": GPT2,
    "distilgpt2": GPT2 | {"n_layers": 6},
    "distillgpt2": GPT2 | {"n_layers": 6},
    "gpt2-medium": GPT2 | {"n_layers": 24, "n_heads": 16, "d_model": 1024},
    "gpt2-large": GPT2 | {"n_layers": 36, "n_heads": 20, "d_model": 1280},
    "gpt2-xl": GPT2 | {"n_layers": 48, "n_heads": 25, "d_model": 1600},
    "stanford-gpt2-small-a": GPT2,
    "pythia-70m": NEOX,
    "pythia-160m": NEOX | {"n_layers": 12, "n_heads": 12, "d_model": 768},
    "pythia-14m": NEOX | {"n_heads": 4, "d_model": 128, "rotary_dim": 8},
    "tiny-stories-1M": STORIES,
    "roneneldan/TinyStories-1M": STORIES,
    "tiny-stories-33M": STORIES | {"n_layers": 4, "d_model": 768},
    **{f"attn-only-{n}l": SHORT | {"n_layers": n} for n in (1, 2, 3, 4)},
    **{f"gelu-{n}l": SMALL | {"n_layers": n} for n in (1, 2, 3, 4)},
    **{f"solu-{n}l": SMALL | {"n_layers": n, "act_fn": "solu_ln"} for n in (1, 2, 3, 4)},
    "redwood_attn_2l": SMALL | {"n_layers": 2, "n_heads": 8, "d_model": 256, "d_vocab": 50259, "attn_only": True},
}
"""Architectures of published models by the names they are loaded with."""


class NotHereError(Exception):
    """What the work needs and this run does not have, such as a download."""


class TookTooLongError(BaseException):
    """A cell or test ran past its limit. Not an `Exception`, so that no `except Exception` of the work swallows it."""


# ---------------------------------------------------------------- the surroundings


class Idle:
    """Stands for anything of a package that is not installed; it can be called, indexed, added to, and does nothing.

    Attributes:
        used: the package that was called last since this was set to None.
    """

    used: str | None = None

    def __init__(self, package: str):
        self.package = package

    def __getattr__(self, name: str) -> Idle:
        if name.startswith("__"):
            raise AttributeError(name)
        return Idle(self.package)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.package in DATA:
            raise NotHereError(f"a download by {self.package}")
        if self.package in DRAWING:
            Idle.used = self.package
        if len(args) == 1 and not kwargs and isinstance(args[0], types.FunctionType | type):
            return args[0]  # a decorator
        return Idle(self.package)

    def __getitem__(self, item: Any) -> Idle:
        return Idle(self.package)

    def __add__(self, other: Any) -> Any:
        return other if isinstance(other, str) else Idle(self.package)

    __radd__ = __add__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class IdleModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports packages of the three lists that are not installed, as modules whose names are all `Idle`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] in (*DRAWING, *DATA, *OTHERS):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module, idle = types.ModuleType(spec.name), Idle(spec.name.partition(".")[0])
        module.__getattr__ = lambda name: getattr(idle, name)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def load_tokenizer(path: str | None) -> Any:
    """A tokenizer of transformers, from its folder, from a `tokenizer.json`, or of the model that was fetched."""
    import transformers

    if path is not None and Path(path).is_dir():
        return transformers.AutoTokenizer.from_pretrained(path)
    from interp.checkpoints import open_checkpoint
    from interp.text import Tokenizer

    ours = Tokenizer.from_file(path) if path else open_checkpoint("smollm2-135m-instruct").tokenizer
    assert isinstance(ours, Tokenizer)
    special = {f"{name}_token": getattr(ours, name) or ours.bos or ours.eos for name in ("bos", "eos", "pad")}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=ours.backend, **special)


def random_model(name: str, tokenizer: Any, width: int | None) -> Any:
    """A random model of the architecture that a published model has.

    Args:
        name: of the published model, perhaps with its organisation before it.
        tokenizer: of transformers.
        width: of a head, in place of the published one; the number of layers and heads stays.

    Raises `NotHereError` for a name that `MODELS` does not have.
    """
    import interp

    fields = MODELS.get(name) or MODELS.get(name.rpartition("/")[2])
    if fields is None:
        raise NotHereError(f"weights of {name!r}, which stand-ins do not have")
    if width is not None:
        fields = fields | {"d_head": width, "d_model": width * fields["n_heads"]}
        if "rotary_dim" in fields:
            fields["rotary_dim"] = width // 4 * 2
    vocab = max(fields["d_vocab"], len(tokenizer))
    cfg = interp.TransformerConfig(**fields | {"d_vocab": vocab, "init_std": 0.05, "seed": 0})
    return interp.HookedTransformer(cfg, tokenizer)


def prepare(tokenizer_path: str | None, width: int | None = None) -> None:
    """Let everything below take the place of what public work expects; for a process that does nothing else."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "HF_DATASETS_OFFLINE": "1"}
    _no_shell()
    _no_pictures()
    tokenizer = load_tokenizer(tokenizer_path)
    _random_weights(tokenizer, width)
    socket.socket.connect = _refuse_network
    socket.getaddrinfo = _refuse_network
    from interp.compat import transformer_lens

    transformer_lens.stand_in()
    sys.meta_path.append(IdleModules())  # last: what is imported above asks which packages there are


def _refuse_network(*args: Any, **kwargs: Any) -> Any:
    raise NotHereError("a download")


def _no_shell() -> None:
    """`get_ipython()` gives something that accepts every command; `tqdm.notebook` is the plain one."""
    import tqdm

    sys.modules["tqdm.notebook"] = sys.modules["tqdm.autonotebook"] = sys.modules["tqdm.auto"] = tqdm
    if importlib.util.find_spec("fancy_einsum") is None:
        import einops

        fancy: Any = types.ModuleType("fancy_einsum")  # the same notation, with the pattern in front
        fancy.einsum = lambda pattern, *tensors: einops.einsum(*tensors, pattern)  # pyright: ignore[reportCallIssue]
        sys.modules["fancy_einsum"] = fancy
    try:
        import IPython
        import IPython.display
    except ImportError:
        return
    IPython.get_ipython = lambda: Idle("IPython")  # pyright: ignore[reportAttributeAccessIssue]
    IPython.display.display = lambda *args, **kwargs: None


def _no_pictures() -> None:
    import plotly.basedatatypes
    import plotly.io

    plotly.basedatatypes.BaseFigure.show = lambda *args, **kwargs: None
    plotly.io.show = lambda *args, **kwargs: None
    webbrowser.open = lambda *args, **kwargs: True


def _random_weights(tokenizer: Any, width: int | None) -> None:
    """`from_pretrained` with the name of a published model gives a random one; tokenizers by name are the given one."""
    import huggingface_hub
    import torch
    import transformers

    import interp

    load = interp.HookedTransformer.from_pretrained.__func__

    def from_pretrained(cls: Any, name_or_path: Any = None, hf_model: Any = None, *args: Any, **kwargs: Any) -> Any:
        if hf_model is not None or name_or_path is None or Path(name_or_path).exists():
            return load(cls, name_or_path, hf_model, *args, **kwargs)
        model = random_model(str(name_or_path), kwargs.get("tokenizer") or tokenizer, width)
        dtype = kwargs.get("dtype")
        return model.to(device=kwargs.get("device"), dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)

    def no_weights(cls: Any, name: Any = None, *args: Any, **kwargs: Any) -> Any:
        raise NotHereError(f"weights of {name!r}")

    interp.HookedTransformer.from_pretrained = classmethod(from_pretrained)  # pyright: ignore[reportAttributeAccessIssue]
    given = classmethod(lambda cls, *args, **kwargs: tokenizer)
    for holder in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerBase):
        holder.from_pretrained = given  # pyright: ignore[reportAttributeAccessIssue]
    huggingface_hub.snapshot_download = _only_tokenizers
    transformers.PreTrainedModel.from_pretrained = classmethod(no_weights)  # pyright: ignore[reportAttributeAccessIssue]


def _only_tokenizers(name: str, *, allow_patterns: list[str] | None = None, **options: Any) -> str:
    """The name, of which `AutoTokenizer` makes the given tokenizer, where the module asks the hub for one."""
    from interp.compat.transformer_lens.loading import TOKENIZER_FILES

    if allow_patterns != TOKENIZER_FILES:
        raise NotHereError(f"a download of {name}")
    return name


# ---------------------------------------------------------------- the verdict


def judge(error: BaseException) -> str | None:
    """Why the work cannot run here, or None where it should have run: its own fault, or the stand-in's."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    for one in seen:
        if isinstance(one, NotHereError):
            return f"needs {one}"
        if "is downloaded here" in str(one) or (isinstance(one, FileNotFoundError) and one.filename is None):
            return "needs a download"  # the module says so, or huggingface_hub does
        if isinstance(one, FileNotFoundError):
            return f"needs a file that is not here ({Path(str(one.filename)).name})"
        if any(sign in str(one) for sign in ("CUDA", "NVIDIA driver", "cuda.is_available")):
            return "needs CUDA"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(("transformer_lens", "interp")):
        return f"needs the package {error.name}"
    return f"draws with {Idle.used}" if Idle.used else None


def in_one_line(error: BaseException) -> str:
    """The kind of an exception and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TookTooLongError` in what runs inside, after so many seconds."""

    def ring(*args: Any) -> None:
        raise TookTooLongError(f"more than {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# ---------------------------------------------------------------- as a plugin of pytest


def pytest_addoption(parser: Any) -> None:
    for name in ("--public-tokenizer", "--public-out", "--public-width", "--public-limit"):
        parser.addoption(name)


def pytest_configure(config: Any) -> None:
    width = config.getoption("--public-width")
    prepare(config.getoption("--public-tokenizer"), int(width) if width else None)


def _note(config: Any, outcome: Mapping[str, Any]) -> None:
    with Path(config.getoption("--public-out")).open("a") as file:
        file.write(json.dumps(outcome) + "\n")


try:
    import pytest
except ImportError:  # notebooks run without it
    pass
else:

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(item: Any) -> Any:
        Idle.used = None
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(item: Any) -> Any:
        with time_limit(float(item.config.getoption("--public-limit"))):
            try:
                return (yield)
            except TookTooLongError as error:
                raise TimeoutError(str(error)) from None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item: Any, call: Any) -> Any:
        report = yield
        if call.excinfo is None:
            if report.when == "call":
                _note(item.config, {"name": item.nodeid, "status": "passed", "why": ""})
            return report
        why = judge(call.excinfo.value)
        if report.skipped:
            why = f"skips itself ({in_one_line(call.excinfo.value)})"
        outcome = {"name": item.nodeid, "status": "failed" if why is None else "skipped"}
        _note(item.config, outcome | {"why": why or in_one_line(call.excinfo.value)})
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(collector: Any) -> Any:
        report = yield
        if report.failed:
            caught = getattr(getattr(report, "call", None), "excinfo", None)
            error = caught and (caught.value.__cause__ or caught.value)
            why = judge(error) if error else None
            text = in_one_line(error) if error else str(report.longrepr).strip().splitlines()[-1][:160]
            status = "failed" if why is None else "skipped"
            _note(collector.config, {"name": collector.nodeid, "status": status, "why": why or text})
        return report
