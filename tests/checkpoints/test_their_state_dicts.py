"""State dicts of TransformerLens, to ours and back. Names and shapes are those that its release 2.16.1 makes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, SEED, build, config, random_tokens
from safetensors.torch import save_file
from torch import Tensor

from interp import CheckpointError, ConfigError, HookedTransformer, TransformerConfig
from interp.checkpoints import from_transformer_lens, to_transformer_lens
from interp.weights import fold_layer_norm

TINY: dict[str, Any] = {"n_layers": 1, "d_model": 8, "n_heads": 4, "d_head": 2, "n_ctx": 5, "d_vocab": 7, "d_mlp": 6}
COMMON = {
    "embed.W_E": (7, 8),
    "blocks.0.attn.W_Q": (4, 8, 2),
    "blocks.0.attn.W_O": (4, 2, 8),
    "blocks.0.attn.b_Q": (4, 2),
    "blocks.0.attn.b_O": (8,),
    "blocks.0.attn.mask": (5, 5),
    "blocks.0.attn.IGNORE": (),
    "blocks.0.mlp.W_in": (8, 6),
    "blocks.0.mlp.b_in": (6,),
    "blocks.0.mlp.W_out": (6, 8),
    "blocks.0.mlp.b_out": (8,),
    "unembed.W_U": (8, 7),
    "unembed.b_U": (7,),
}
LEARNED = COMMON | {
    "pos_embed.W_pos": (5, 8),
    "blocks.0.attn.W_K": (4, 8, 2),
    "blocks.0.attn.W_V": (4, 8, 2),
    "blocks.0.attn.b_K": (4, 2),
    "blocks.0.attn.b_V": (4, 2),
}
NORMS = {f"{norm}.{x}": (8,) for norm in ("blocks.0.ln1", "blocks.0.ln2", "ln_final") for x in "wb"}
THEIRS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "learned": ({}, LEARNED | NORMS),
    "solu": (
        {"positional_embedding_type": "shortformer", "act_fn": "solu_ln", "d_vocab_out": 3},
        LEARNED | NORMS | {"blocks.0.mlp.ln.w": (6,), "blocks.0.mlp.ln.b": (6,), "unembed.W_U": (8, 3),
                           "unembed.b_U": (3,)},
    ),
    "grouped": (
        {"positional_embedding_type": "rotary", "normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu",
         "n_key_value_heads": 2},
        COMMON | {name: shape for name, shape in NORMS.items() if name.endswith("w")} | {
            "blocks.0.attn._W_K": (2, 8, 2),
            "blocks.0.attn._W_V": (2, 8, 2),
            "blocks.0.attn._b_K": (2, 2),
            "blocks.0.attn._b_V": (2, 2),
            "blocks.0.attn.rotary_sin": (5, 2),
            "blocks.0.attn.rotary_cos": (5, 2),
            "blocks.0.mlp.W_gate": (8, 6),
        },
    ),
}  # fmt: skip


def there(cfg: TransformerConfig) -> bool:
    """Whether TransformerLens has such a HookedTransformer."""
    norms = cfg.normalization_type is None or cfg.norm_position != "post"
    positions = cfg.positional_embedding_type not in ("none", "relative")
    return norms and positions and not cfg.masked_token_head


def model_of(name: str, **changes: Any) -> HookedTransformer:
    """One of the grid without biases beside gates, which they do not have."""
    return without_gate_biases(build(config(GRID[name], **changes), SEED))


def without_gate_biases(model: HookedTransformer) -> HookedTransformer:
    with torch.no_grad():
        for block in model.blocks if model.cfg.gated_mlp else ():
            block.mlp.b_in.zero_()
            block.mlp.b_gate.zero_()
    return model


def tiny(kind: str) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """A config, and their state dict of the model, with random weights."""
    fields, shapes = THEIRS[kind]
    cfg = config(TINY, **fields)
    theirs = {name: torch.randn(shape) for name, shape in shapes.items()}
    if cfg.gated_mlp:
        theirs["blocks.0.mlp.b_in"].zero_()
    theirs["blocks.0.attn.mask"] = torch.tensor([[key <= query for key in range(5)] for query in range(5)])
    theirs["blocks.0.attn.IGNORE"] = torch.tensor(-torch.inf)
    if cfg.rotary_dim:  # one pair of dimensions, which turns by an angle of 1 a position
        angles = torch.arange(5.0)[:, None].repeat(1, 2)
        theirs |= {"blocks.0.attn.rotary_sin": angles.sin(), "blocks.0.attn.rotary_cos": angles.cos()}
    return cfg, theirs


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, fields in GRID.items() if there(config(fields))])
def test_a_state_dict_that_went_there_and_back_is_the_same(name: str):
    model = model_of(name)
    own = model.state_dict()
    back = from_transformer_lens(to_transformer_lens(own, model.cfg), model.cfg)
    assert own.keys() == back.keys()
    for key, tensor in own.items():
        assert torch.allclose(back[key], tensor, rtol=1e-15, atol=0), key
    twin = build(model.cfg, 9)
    twin.load_state_dict(back)
    tokens = random_tokens(model.cfg, 2)
    assert torch.allclose(twin(tokens), model(tokens), rtol=1e-12, atol=1e-12)


def test_names_and_shapes_are_theirs():
    for kind, (fields, shapes) in THEIRS.items():
        model = without_gate_biases(HookedTransformer(config(TINY, **fields)))
        theirs = to_transformer_lens(model.state_dict(), model.cfg)
        assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == shapes, kind
        cfg, given = tiny(kind)
        for name, tensor in given.items():
            if "rotary" in name or name.endswith("mask"):
                assert torch.allclose(theirs[name].double(), tensor.double(), atol=1e-6)
        HookedTransformer(cfg).load_state_dict(from_transformer_lens(given, cfg))


@torch.no_grad()
def test_folded_norms_have_no_tensors_there_and_are_ones_and_zeros_here():
    for name in ("learned_ln", "rotary_rms_gated_grouped", "shortformer_attn_only"):
        model = model_of(name)
        if name != "shortformer_attn_only":
            model = without_gate_biases(fold_layer_norm(model)) if model.cfg.gated_mlp else fold_layer_norm(model)
        theirs = to_transformer_lens(model.state_dict(), model.cfg)
        folded = {key: tensor for key, tensor in theirs.items() if not ("ln1." in key or "ln2." in key)}
        with pytest.raises(CheckpointError, match=r"'blocks.0.ln1.w' is missing"):
            from_transformer_lens(folded, model.cfg)  # half of them is not none of them
        folded = {key: tensor for key, tensor in folded.items() if "ln_final." not in key}
        ours = from_transformer_lens(folded, model.cfg)
        for key, tensor in ours.items():
            if "ln" in key:
                assert torch.equal(tensor, torch.full_like(tensor, 1.0 if key.endswith("w") else 0.0))
        if name != "shortformer_attn_only":
            assert all(torch.equal(ours[key], tensor) for key, tensor in model.state_dict().items())


def test_scaled_embeddings_are_stored_scaled_and_a_tied_unembedding_is_stored_too():
    model = model_of("gemma_like")
    theirs = to_transformer_lens(model.state_dict(), model.cfg)
    assert torch.allclose(theirs["embed.W_E"], model.embed.W_E * 4.9, rtol=1e-14)
    assert torch.equal(theirs["unembed.W_U"], model.W_U) and theirs["unembed.W_U"].is_contiguous()
    half = {key: tensor.bfloat16() if tensor.is_floating_point() else tensor for key, tensor in theirs.items()}
    assert torch.equal(from_transformer_lens(half, model.cfg)["embed.W_E"], half["unembed.W_U"].T)
    theirs["unembed.W_U"][0, 0] += 1
    with pytest.raises(CheckpointError, match=r"'unembed.W_U' is not W_E\^T"):
        from_transformer_lens(theirs, model.cfg)


def test_windows_are_masks_there():
    theirs = to_transformer_lens(model_of("capped_window_tied").state_dict(), config(GRID["capped_window_tied"]))
    mask = theirs["blocks.1.attn.mask"]
    assert mask.shape == (8, 8) and mask[5].nonzero().flatten().tolist() == [3, 4, 5]
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.mask' is not the one.*window_size"):
        from_transformer_lens(theirs, config(GRID["capped_window_tied"], window_size=4))


def test_keys_that_are_called_grouped_without_being_so_are_taken():
    cfg, theirs = tiny("learned")
    renamed = {key.replace("attn.W_K", "attn._W_K").replace("attn.b_K", "attn._b_K"): t for key, t in theirs.items()}
    assert torch.equal(from_transformer_lens(renamed, cfg)["blocks.0.attn.W_K"], theirs["blocks.0.attn.W_K"])


def test_a_file_is_read_and_a_pickle_is_not(tmp_path: Path):
    cfg, theirs = tiny("grouped")
    save_file(theirs, tmp_path / "model.safetensors")
    ours = from_transformer_lens(tmp_path / "model.safetensors", cfg)
    assert torch.equal(ours["blocks.0.attn.W_K"], theirs["blocks.0.attn._W_K"])
    torch.save(theirs, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"pickles, which can run any code.*weights_only=True"):
        from_transformer_lens(tmp_path / "model.pth", cfg)
    with pytest.raises(CheckpointError, match=r"none.safetensors cannot be read"):
        from_transformer_lens(tmp_path / "none.safetensors", cfg)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("learned", {"unembed.b_U": None}, "'unembed.b_U' is missing"),
        ("learned", {"blocks.0.mlp.W_inn": torch.zeros(8, 6)}, "'blocks.0.mlp.W_inn' is not part of this model; did"),
        ("learned", {"blocks.0.attn.W_Q": torch.zeros(4, 2, 8)}, r"W_Q' has shape \(4, 2, 8\); the config says \(4, 8"),
        ("grouped", {"blocks.0.mlp.b_in": torch.ones(6)}, "b_in' is not zero. Beside a gate it is added after"),
        ("grouped", {"blocks.0.attn.rotary_sin": torch.zeros(5, 2)}, "rotary_sin' is not the one .*rotary_adjacent"),
        ("grouped", {"blocks.1.attn.mask": torch.ones(5, 5)}, "blocks.1.attn.mask' is not part of this model"),
        ("grouped", {"blocks.0.attn.IGNORE": torch.tensor(0.0)}, "IGNORE' is not the one"),
        ("grouped", {"blocks.0.attn._W_K": None}, "'blocks.0.attn._W_K' is missing"),
    ],
)
def test_what_does_not_fit_is_named(kind: str, change: dict[str, Tensor | None], message: str):
    cfg, theirs = tiny(kind)
    theirs = {name: tensor for name, tensor in (theirs | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        from_transformer_lens(theirs, cfg)


def test_what_has_no_place_there_is_named():
    model = build(config(GRID["rotary_rms_gated_grouped"]), SEED)  # with biases beside the gates
    with pytest.raises(CheckpointError, match=r"no place for tensor 'blocks.0.mlp.b_gate'"):
        to_transformer_lens(model.state_dict(), model.cfg)
    for fields, message in (
        ({"norm_position": "post"}, "norm_position = 'post'"),
        ({"positional_embedding_type": "relative"}, "positional_embedding_type = 'relative'"),
        ({"embed_norm": True}, "before positions are added"),
        ({"d_vocab_out": 0}, "always has an unembedding"),
        ({"gated_mlp": True, "act_fn": "solu_ln"}, "another function"),
    ):
        cfg = config(TINY, **fields)
        with pytest.raises(ConfigError, match=message):
            to_transformer_lens(HookedTransformer(cfg).state_dict(), cfg)
        with pytest.raises(ConfigError, match=message):
            from_transformer_lens({}, cfg)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_state_dict_of_the_model_is_named_on_the_way_there_too():
    model = model_of("learned_ln")
    own = model.state_dict()
    cases: list[tuple[dict[Any, Any], str]] = [
        ({name: own[name] for name in own if name != "embed.W_E"}, "'embed.W_E' of the state dict is missing"),
        (own | {"head.W": torch.ones(2)}, "'head.W' of the state dict is not part of this model"),
        (own | {"unembed.b_U": torch.ones(1)}, r"'unembed.b_U' of the state dict has shape \(1,\)"),  # it would spread
        (own | {5: torch.ones(1)}, "5 is no name of a tensor"),
    ]
    for weights, said in cases:
        with pytest.raises(CheckpointError, match=said):
            to_transformer_lens(weights, model.cfg)
    with pytest.raises(CheckpointError, match="allowed: a state dict, or the path"):
        from_transformer_lens([1], model.cfg)  # pyright: ignore[reportArgumentType]
