"""What `from_pretrained` and the processing of weights come down to: the core's loading and the core's processing."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch

import interp
from interp import weights
from interp.checkpoints import local_path
from interp.compat.transformer_lens.checks import refusals
from interp.compat.transformer_lens.config import FOLDED, HookedTransformerConfig
from interp.errors import ConfigError, check_choice

ALIASES = {"gpt2-small": "gpt2", "distillgpt2": "distilgpt2", "mistral-7b": "mistralai/Mistral-7B-v0.1"}
OWNERS = {"pythia-": "EleutherAI/", "gpt-neox-": "EleutherAI/", "gemma-": "google/"}
"""Whose repository a name is that begins so and names no owner."""

NEUTRAL = {"n_devices": 1, "checkpoint_index": None, "first_n_layers": None, "load_in_4bit": False,
           "load_in_8bit": False, "trust_remote_code": False}  # fmt: skip
"""Options of `from_pretrained` that are not covered, and the values with which they ask for nothing."""

__getattr__ = refusals(__name__)


def get_official_model_name(model_name: str) -> str:
    """The name of the repository that TransformerLens's short name stands for; any other name stands for itself."""
    name = ALIASES.get(model_name, model_name)
    owner = next((owner for start, owner in OWNERS.items() if name.startswith(start)), "")
    return owner + name


def load_core(name: str, hf_model: Any, **options: Any) -> interp.HookedTransformer:
    """The core's model, changed as all models of TransformerLens are: untied, token vectors scaled beforehand."""
    path = get_official_model_name(name) if hf_model is None else None
    core = interp.HookedTransformer.from_pretrained(path, hf_model, **options)
    with torch.no_grad():
        if core.cfg.tie_word_embeddings:
            core.unembed.untie()
        if core.cfg.embed_scale != 1:
            core.embed.W_E.copy_(core.embed.scaled(core.embed.W_E))
            core.embed.scale = 1.0
    cfg = dataclasses.replace(core.cfg, tie_word_embeddings=False, embed_scale=1.0)
    for module in core.modules():
        if "cfg" in vars(module):
            vars(module)["cfg"] = cfg
    return core


TOKENIZER_FILES = ["*.json", "*.txt", "*.model"]
"""Those of a repository on the hub that a tokenizer is read from."""


def load_tokenizer(name: str) -> Any:
    """The tokenizer of transformers for a folder or for a name of the hub, which is asked only for what is not here.

    Raises `ConfigError` where there is none, which says how to give one.
    """
    path = get_official_model_name(name)
    folder, why = local_path(path) or (path if Path(path).is_dir() else None), "transformers is not installed"
    for here in (True, False):
        try:
            from huggingface_hub import snapshot_download
            from transformers import AutoTokenizer

            found = folder or snapshot_download(path, allow_patterns=TOKENIZER_FILES, local_files_only=here)
            return AutoTokenizer.from_pretrained(found, add_bos_token=True, local_files_only=True)
        except ImportError:
            break
        except (OSError, ValueError) as error:
            why = str(error).partition("\n")[0]
            if folder is not None:
                break
    raise ConfigError(
        f"{name}: no tokenizer is there, or can be had from the hub ({why}); pass tokenizer=, one of transformers, "
        "such as AutoTokenizer.from_pretrained(folder), or of interp"
    )


def tokenizer_of(core: interp.HookedTransformer, name: str) -> Any:
    """The tokenizer of transformers for the name of a model that was loaded, else the one that it was loaded with.

    Where there is neither, the model reads ids alone, and a warning says how to give a tokenizer.
    """
    try:
        return load_tokenizer(name)
    except ConfigError as error:
        if core.tokenizer is None:
            warnings.warn(str(error), stacklevel=3)
        return core.tokenizer


STEPS = {
    "fold_ln": weights.fold_layer_norm,
    "center_writing_weights": weights.center_writing_weights,
    "center_unembed": weights.center_unembed,
    "fold_value_biases": weights.fold_value_biases,
    "refactor_factored_attn_matrices": weights.refactor_factored_attn_matrices,
}
"""What processing consists of, in this order."""


def processed(
    core: interp.HookedTransformer, cfg: HookedTransformerConfig, **steps: bool
) -> tuple[interp.HookedTransformer, HookedTransformerConfig]:
    """The model with other weights for the same function, and its config.

    Of `STEPS` all but the last are taken where nothing else is said. One that this architecture does not allow is left
    out with a warning that says why. Raises `ConfigError` for a step that is none.
    """
    for name in steps:
        check_choice("step", name, list(STEPS))
    for name, step in STEPS.items():
        if not steps.get(name, name != "refactor_factored_attn_matrices"):
            continue
        try:
            core = step(core)
        except ConfigError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=3)
            continue
        if name == "fold_ln" and cfg.normalization_type in FOLDED:
            cfg = cfg.of_model(normalization_type=FOLDED[cfg.normalization_type])
    return core, cfg
