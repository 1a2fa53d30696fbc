"""Files of weights, to models and back.

`open_checkpoint` takes a name, a folder, a `.gguf` file or an instance of a transformers model, and says what is there:
an architecture, a tokenizer, and weights that are checked before any of them is read and then copied one by one into a
model's tensors. `save_checkpoint` writes a model's tensors, in this package's own format or as transformers does;
`save_snapshot` writes them so that a model takes them from the file as they lie there, by memory map. All are behind
`HookedTransformer.from_pretrained`, `save_pretrained` and `save_snapshot`, and know tensors by their names only. Each
family of models has a file of its own, which describes its configuration and its tensors; `FAMILIES` lists them.
`from_transformer_lens` and `to_transformer_lens` exchange state dicts with TransformerLens.

`fetch_model` downloads a small real model for first steps (`interp fetch smollm2`, `interp fetch
minilm`).
"""

from interp.checkpoints.families import FAMILIES
from interp.checkpoints.fetch import MODELS, fetch_model, local_path
from interp.checkpoints.loading import open_checkpoint, save_checkpoint, save_snapshot
from interp.checkpoints.native import Snapshot
from interp.checkpoints.registry import from_hf, to_hf
from interp.checkpoints.sources import Checkpoint
from interp.checkpoints.transformer_lens import from_transformer_lens, to_transformer_lens

__all__ = [
    "FAMILIES",
    "MODELS",
    "Checkpoint",
    "Snapshot",
    "fetch_model",
    "from_hf",
    "from_transformer_lens",
    "local_path",
    "open_checkpoint",
    "save_checkpoint",
    "save_snapshot",
    "to_hf",
    "to_transformer_lens",
]
