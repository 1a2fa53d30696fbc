"""An argument that a function does not take is refused, with the nearest one that it takes."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from grid import Run

import interp
from interp import ConfigError, HookedTransformer, TransformerConfig
from interp.metrics import Logit
from interp.patching import sweep
from interp.training import train

METHODS = ["forward", "run_with_hooks", "run_with_cache", "generate", "stream", "from_pretrained"]


def functions_with_many_options() -> list[Callable[..., Any]]:
    """What the rooms offer with three optional arguments or more, or with options by name."""
    found: dict[Callable[..., Any], None] = {}
    for info in pkgutil.iter_modules(interp.__path__, "interp."):
        if info.name in ("interp.commands", "interp.checkpoints", "interp.results") or not info.ispkg:
            continue
        room = importlib.import_module(info.name)
        for function in (getattr(room, name, None) for name in room.__all__):  # rooms within load when imported
            if inspect.isfunction(function):
                parameters = inspect.signature(function).parameters.values()
                optional = sum(parameter.default is not parameter.empty for parameter in parameters)
                named = any(
                    parameter.kind is parameter.VAR_KEYWORD and get_args(parameter.annotation)
                    for parameter in parameters
                )  # rather than passed on to another library
                if optional >= 3 or named:
                    found[function] = None
    return [*found, *(getattr(HookedTransformer, name) for name in METHODS), HookedTransformer]


def test_a_misspelt_option_is_answered_with_the_right_one():
    functions = functions_with_many_options()
    assert {"sweep", "train", "head_scores", "logit_lens", "attention"} <= {one.__name__ for one in functions}
    for function in functions:
        name = [name for name in inspect.signature(function).parameters if name not in ("self", "options")][-1]
        wrong = f"{name}x"
        with pytest.raises(ConfigError, match=rf"unknown argument '{wrong}'.*did you mean .*{name}="):
            function(**{wrong: 1})


def test_options_that_runs_pass_on_are_known_too(plain: Run):
    options: dict[str, Any] = {"stop_at_layr": 1}
    for call in (plain.model, plain.model.run_with_cache, plain.model.run_with_hooks):
        with pytest.raises(ConfigError, match=r"'stop_at_layr'.*did you mean stop_at_layer="):
            call(plain.tokens, **options)
    assert torch.equal(
        plain.model.run_with_hooks(plain.tokens, stop_at_layer=1), plain.model(plain.tokens, stop_at_layer=1)
    )


def test_nothing_has_begun_when_an_option_is_refused(plain: Run):
    def never(*_: Any) -> Any:
        raise AssertionError("this must not run")

    wrong: dict[str, Any] = {"progres": False}
    with plain.model.hooks([("hook_embed", lambda x, hook: x)]):
        for call in (
            lambda: sweep(plain.model, plain.tokens, plain.tokens, never, **wrong),
            lambda: train(plain.model, never, 1, **wrong),
            lambda: plain.model.generate(plain.tokens, **wrong),
        ):
            with pytest.raises(ConfigError, match="did you mean progress="):
                call()
        plain.model(plain.tokens)


def test_arguments_that_are_missing_are_still_pythons_own_error():
    with pytest.raises(TypeError, match="missing"):
        sweep(metric=Logit(1))  # pyright: ignore
    with pytest.raises(ConfigError, match="unknown argument 'tokeniser'"):
        HookedTransformer(TransformerConfig(n_layers=1, d_model=4, n_ctx=3, d_vocab=2, n_heads=1), tokeniser=None)  # pyright: ignore
