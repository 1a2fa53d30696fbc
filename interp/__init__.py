"""interp: inspect attention patterns, build circuits by hand, cache and patch activations.

The package at a glance: `TransformerConfig` fixes an architecture, `HookedTransformer` runs it, `Vocabulary` (words of
your own) or `Tokenizer` (a trained one) turns text into tokens, `ActivationCache` holds what flowed through the model
and takes the residual stream apart. `HookedEncoderDecoder` is a pair of such models, with `EncoderDecoderConfig` and
`PairCache` beside it.

The rooms, from what is asked first to the ground:

- `interp.plot` draws attention, results and circuits; `interp.plot.figures` has a figure for each kind of result.
- `interp.heads` scores what heads do.
- `interp.lens` says what the residual stream holds about the next token, by layer, part and path.
- `interp.patching` sweeps patches over layers, positions, heads and paths.
- `interp.interventions` holds what is written into a run, and `interp.metrics` what a run is judged by.
- `interp.discovery` finds the edges that do it, runs them alone, and judges them.
- `interp.weights` reads circuits off the weights, folds and centres.
- `interp.similarity` says why an encoder finds two texts alike.
- `interp.dictionaries` reads sparse autoencoders and transcoders, and splices them into runs.
- `interp.harvest` keeps the activations of a corpus on disk.
- `interp.data` holds pairs of prompts and texts, and `interp.jobs` does long work over them, in parts.
- `interp.training` trains small models.
- `interp.model` is the transformer: its parts, hook points, runs and caches.
- `interp.checkpoints` turns files into models and back.
- `interp.text` turns text into tokens, and `interp.config` says what an architecture is.
- `interp.results` labels numbers, and gives means over prompts their intervals.
- `interp.errors` are the errors, and `interp.factored` matrices as products.
- `interp.compat` runs work that was written for TransformerLens; `interp.commands` is the command line.

Examples in docstrings find the names of their room, and the small random `model` with its `cfg`, `words`, `clean` and
`corrupted` prompts that the recipes of `interp docs` start with.
"""

from interp.config import EncoderDecoderConfig, TransformerConfig
from interp.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    HookNotFiredError,
    HookNotFoundError,
    InterpError,
    JobError,
    RangeError,
    RankError,
    ReadOnlyError,
    ShapeError,
    TokenError,
)
from interp.factored import FactoredMatrix
from interp.model import (
    ActivationCache,
    HookedEncoderDecoder,
    HookedModule,
    HookedTransformer,
    HookPoint,
    LogitAttribution,
    PairCache,
    Stack,
)
from interp.text import Tokenizer, Vocabulary

__all__ = [
    "ActivationCache",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "EncoderDecoderConfig",
    "FactoredMatrix",
    "HookNotFiredError",
    "HookNotFoundError",
    "HookPoint",
    "HookedEncoderDecoder",
    "HookedModule",
    "HookedTransformer",
    "InterpError",
    "JobError",
    "LogitAttribution",
    "PairCache",
    "RangeError",
    "RankError",
    "ReadOnlyError",
    "ShapeError",
    "Stack",
    "TokenError",
    "Tokenizer",
    "TransformerConfig",
    "Vocabulary",
]
