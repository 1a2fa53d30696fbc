"""TransformerLens's names, signatures and defaults over interp, for work that exists.

    from interp.compat import transformer_lens
    from interp.compat.transformer_lens import HookedTransformer, utils

After `transformer_lens.stand_in()` a notebook's own import lines work. The module follows TransformerLens's numbers
where these differ from interp's; `model.core`, `cache.core` and `factored.core` are interp's own objects.
"""

import importlib
import sys
from typing import Any

from interp.compat.transformer_lens.cache import ActivationCache
from interp.compat.transformer_lens.checks import refusals
from interp.compat.transformer_lens.config import HookedTransformerConfig
from interp.compat.transformer_lens.factored_matrix import FactoredMatrix
from interp.compat.transformer_lens.hook_points import HookedRootModule, HookPoint
from interp.compat.transformer_lens.model import HookedTransformer
from interp.compat.transformer_lens.past_key_value_caching import (
    HookedTransformerKeyValueCache,
    HookedTransformerKeyValueCacheEntry,
)
from interp.compat.transformer_lens.svd_interpreter import SVDInterpreter

EasyTransformer, EasyTransformerConfig = HookedTransformer, HookedTransformerConfig
EasyTransformerKeyValueCache = HookedTransformerKeyValueCache
EasyTransformerKeyValueCacheEntry = HookedTransformerKeyValueCacheEntry

FILES = {
    "ActivationCache": "cache",
    "FactoredMatrix": "factored_matrix",
    "HookedTransformer": "model",
    "HookedTransformerConfig": "config",
    "SVDInterpreter": "svd_interpreter",
    "loading_from_pretrained": "loading",
    **{name: name for name in ("components", "config", "evals", "head_detector", "hook_points", "loading",
                               "past_key_value_caching", "patching", "train", "utils")},
}  # fmt: skip
"""TransformerLens's modules, and the files here that stand for them."""

_refuse = refusals(__name__)

__all__ = [
    "ActivationCache",
    "EasyTransformer",
    "EasyTransformerConfig",
    "EasyTransformerKeyValueCache",
    "EasyTransformerKeyValueCacheEntry",
    "FactoredMatrix",
    "HookPoint",
    "HookedRootModule",
    "HookedTransformer",
    "HookedTransformerConfig",
    "HookedTransformerKeyValueCache",
    "HookedTransformerKeyValueCacheEntry",
    "SVDInterpreter",
    "stand_in",
]


def __getattr__(name: str) -> Any:
    """Their modules by their names, imported when they are asked for, and what is refused."""
    return importlib.import_module(f"{__name__}.{FILES[name]}") if name in FILES else _refuse(name)


def stand_in() -> None:
    """Let this module be what `import transformer_lens` and its submodules give, in this process.

    Raises `ImportError` where TransformerLens itself was imported before, so that nobody gets some of both.
    """
    here, other = sys.modules[__name__], sys.modules.get("transformer_lens")
    if other not in (None, here):
        raise ImportError("transformer_lens is imported already: call stand_in() before it, in a new process")
    sys.modules["transformer_lens"] = here
    for name, file in FILES.items():
        sys.modules[f"transformer_lens.{name}"] = importlib.import_module(f"{__name__}.{file}")
