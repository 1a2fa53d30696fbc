"""Models on disk and back: what `HookedTransformer` and `HookedEncoderDecoder` save and load.

Files and their formats are the business of `interp.checkpoints`; here stands what they mean for a model.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from interp.errors import CheckpointError
from interp.keywords import known_keywords
from interp.model.components import PosEmbed
from interp.model.provenance import all_weights

if TYPE_CHECKING:
    from interp.checkpoints import Snapshot
    from interp.model.encoder_decoder import HookedEncoderDecoder
    from interp.model.transformer import HookedTransformer

Model = TypeVar("Model", bound="Saved")
"""A class of models; the run-time checks of the tests do not know `Self` in a class method."""

Pair = TypeVar("Pair", bound="SavedPair")
"""A class of models of two stacks."""


class Saved:
    """A model of one stack that is saved and loaded."""

    def save_pretrained(self, folder: str | os.PathLike[str], model_type: str | None = None) -> None:
        """Write `config.json` and `model.safetensors`, each file whole or not at all.

        Args:
            folder: where the files go; it is made if it is not there.
            model_type: None for this package's own format, which holds the tokenizer too. A family of transformers,
                such as "gpt2" or "llama", writes what transformers' own `from_pretrained` reads, without a tokenizer.

        Raises `CheckpointError` for a tokenizer that cannot be saved, or naming the field or the tensor that
        `model_type` has no place for.
        """
        from interp.checkpoints import save_checkpoint

        model = cast("HookedTransformer", self)
        save_checkpoint(folder, model.cfg, model.tokenizer, all_weights(model), model_type)

    def save_snapshot(self, folder: str | os.PathLike[str]) -> None:
        """Write this model so that many processes can open it at once: its weights are mapped, not read.

        `from_pretrained` opens the folder as any other. On the CPU and in the same dtype the weights stay in the file:
        they are in memory once for all processes of a machine, and opening the model takes no time for them. What a
        process writes to a weight is its own; no other process sees it, nor does the file. The weights lie in memory as
        they do here, so that runs give the same bits, and the same parameters are trained. The tokenizer comes along.

        The files are `config.json`, written last, and `model.safetensors`, each whole or not at all. As long as a model
        uses them, nothing else may write into `model.safetensors` (to replace the file is fine).

        Raises `CheckpointError` for a tokenizer that cannot be saved, for parts of other types than those of a new
        model of this class, and for weights on the meta device, of several dtypes, or that are slices of larger ones.
        """
        from interp.checkpoints import save_snapshot

        model = cast("HookedTransformer", self)
        if model.W_E.is_meta:
            raise CheckpointError("this model is on the meta device, without values: there is nothing to save")
        _check_holds_weights_only(model)
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        save_snapshot(folder, model.cfg, model.tokenizer, all_weights(model), model.weights_hash(), frozen)

    @classmethod
    @known_keywords
    def from_pretrained(
        cls: type[Model],
        name_or_path: str | os.PathLike[str] | None = None,
        hf_model: Any = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
    ) -> Model:
        """A saved or published model, with its weights as they are.

        Args:
            name_or_path: a folder (written by `save_pretrained`, `save_snapshot` or transformers), a `.gguf` file, a
                fetched model ("smollm2-135m-instruct", "all-minilm-l6-v2"), or the name of a repository on the Hugging
                Face hub.
            hf_model: an instance of a transformers model, in place of files. It may be compiled, or wrapped for several
                devices; quantised weights and adapters that are not merged are refused.
            dtype: of the parameters; None for the checkpoint's, in which `save_pretrained` comes back bit for bit.
            device: where they live.
            revision: branch, tag or commit of a repository on the hub, such as a step of training.
            tokenizer: in place of the checkpoint's own (see the class); with `hf_model` there is none by default.

        Raises `CheckpointError` naming the option that is not supported, or the file and the tensor that is missing,
        surplus, or of another shape or dtype. Pickled weights are never loaded.
        """
        from interp.checkpoints import Snapshot, open_checkpoint

        found = open_checkpoint(name_or_path, hf_model, dtype, device, revision, tokenizer)
        snapshot = found.weights if isinstance(found.weights, Snapshot) else None
        cfg, new = found.one_stack(), cast("type[HookedTransformer]", cls)
        model = new(cfg, found.tokenizer, "meta", init_weights=False)
        found.check(model.state_dict())
        if snapshot is not None:
            _take(model, snapshot, device)
        if any(tensor.is_meta for tensor in _tensors(model)):  # a subclass may have some that are in no checkpoint
            model = new(cfg, found.tokenizer, device, init_weights=False)
            if snapshot is None:
                found.fill(model.state_dict())
            else:
                _take(model, snapshot, device)
        _refine_positions(model)
        return cast(Model, model)


class SavedPair:
    """A model of two stacks that is saved and loaded."""

    def save_pretrained(self, folder: str | os.PathLike[str], model_type: str | None = None) -> None:
        """Write `config.json` and `model.safetensors`, each file whole or not at all.

        Args:
            folder: where the files go; it is made if it is not there.
            model_type: None for this package's own format, which holds the tokenizers too. A family of transformers
                (such as "t5" or "bart") writes what its own `from_pretrained` reads, without tokenizers.

        Raises as `HookedTransformer.save_pretrained`.
        """
        from interp.checkpoints import save_checkpoint

        model = cast("HookedEncoderDecoder", self)
        of_source, of_target = model.encoder.tokenizer, model.decoder.tokenizer
        save_checkpoint(folder, model.cfg, of_source, model.state_dict(), model_type, of_target)

    @classmethod
    @known_keywords
    def from_pretrained(
        cls: type[Pair],
        name_or_path: str | os.PathLike[str] | None = None,
        hf_model: Any = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
        target_tokenizer: Any = None,
    ) -> Pair:
        """A saved or published model, with its weights as they are.

        Args:
            name_or_path, hf_model, dtype, device, revision: as for `HookedTransformer.from_pretrained`.
            tokenizer: of the source, in place of the checkpoint's own. Source texts get all the special tokens that
                the model was trained with (T5's "</s>" at the end).
            target_tokenizer: of the target; by default the same, without the tokens that end a text, so that a target
                can be continued: write them into the text where they are meant.

        Raises `CheckpointError` as `HookedTransformer.from_pretrained`, and for a model of one stack.
        """
        from interp.checkpoints import open_checkpoint

        found = open_checkpoint(name_or_path, hf_model, dtype, device, revision, tokenizer, target_tokenizer)
        cfg, new = found.two_stacks(), cast("type[HookedEncoderDecoder]", cls)
        found.check(new(cfg, device="meta", init_weights=False).state_dict())
        model = new(cfg, found.tokenizer, found.target_tokenizer, device, init_weights=False)
        found.fill(model.state_dict())
        _refine_positions(model)
        return cast(Pair, model)


def _check_holds_weights_only(model: "HookedTransformer") -> None:
    """Raise `CheckpointError` for parts of other types than those of a new model of this class."""
    other = type(model)(model.cfg, model.tokenizer, "meta", init_weights=False)
    kinds, others = ({path: type(part) for path, part in one.named_modules()} for one in (model, other))
    for path in dict.fromkeys([*kinds, *others]):
        if kinds.get(path) is not others.get(path):
            kind, plain = (getattr(found.get(path), "__name__", "nothing") for found in (kinds, others))
            raise CheckpointError(f"{path} is {kind}, and {plain} in a new {type(model).__name__}: a snapshot holds "
                                  "weights only")  # fmt: skip


def _take(model: "HookedTransformer", snapshot: "Snapshot", device: str | torch.device | None) -> None:
    """Let the weights of a snapshot, where they lie, be those of this model."""
    model.load_state_dict(snapshot.mapped(model.cfg.dtype, device), assign=True)
    for name in snapshot.about.frozen:
        model.get_parameter(name).requires_grad_(False)


def _refine_positions(model: nn.Module) -> None:
    """Make fixed tables of positions afresh that a checkpoint rounded."""
    for part in model.modules():
        if isinstance(part, PosEmbed):
            part.refine()


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that a part has as plain attributes."""
    for part in model.modules():
        held = (*part._parameters.values(), *part._buffers.values(), *vars(part).values())
        yield from (one for one in held if isinstance(one, Tensor))
