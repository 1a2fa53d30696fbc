"""`train`, `evals`, `components` and `test_prompt` of the TransformerLens module."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import assert_close, random_tensor, reference_norm, run_of
from torch import nn

from interp import ConfigError, HookedTransformer, TransformerConfig, Vocabulary
from interp.compat import transformer_lens
from interp.compat.transformer_lens import components, evals, utils
from interp.compat.transformer_lens.train import HookedTransformerTrainConfig, train

WORDS = ["<s>", "a", "b", "c", "[d]"]
SIZES: dict[str, Any] = {
    "n_layers": 1,
    "d_model": 8,
    "n_ctx": 12,
    "n_heads": 2,
    "d_head": 4,
    "d_mlp": 8,
}


def small(words: list[str] | None = WORDS, **changes: Any) -> Any:
    fields: dict[str, Any] = SIZES | {"d_vocab": len(words or WORDS), "seed": 3, "act_fn": "gelu"} | changes
    cfg = TransformerConfig(**fields)
    return transformer_lens.HookedTransformer.over(
        HookedTransformer(cfg, Vocabulary(words, bos=words[0]) if words else None)
    )


# ---------------------------------------------------------------------------------------------- train


def rows(n: int = 8) -> Any:
    return [{"tokens": torch.tensor([0, 1, 2, 1, 2, 1])}] * n


def test_training_takes_the_steps_of_the_optimiser_and_returns_the_model(tmp_path: Path, capsys: Any):
    model, other = small(), small()
    config = HookedTransformerTrainConfig(
        num_epochs=2, batch_size=4, lr=0.1, optimizer_name="SGD", momentum=0.5, device="cpu", print_every=1,
        save_every=1, save_dir=str(tmp_path),
    )  # fmt: skip
    assert train(model, config, rows()) is model
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.5)
    losses = []
    for _ in range(4):
        loss = other(torch.stack([row["tokens"] for row in rows(4)]), return_type="loss")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    for name, weight in model.named_parameters():
        assert_close(weight, other.get_parameter(name))
    said = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert said == pytest.approx(losses, rel=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_0.pt", "model_1.pt"]
    assert_close(torch.load(tmp_path / "model_1.pt")["unembed.W_U"], model.W_U)


def test_warming_up_starts_at_a_rate_of_zero_and_an_epoch_ends_at_max_steps(capsys: Any):
    model = small()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    options: dict[str, Any] = {"num_epochs": 1, "batch_size": 1, "device": "cpu", "max_grad_norm": 1.0}
    train(model, HookedTransformerTrainConfig(**options, warmup_steps=5, max_steps=0, print_every=1), rows())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert len(capsys.readouterr().out.splitlines()) == 1
    train(model, HookedTransformerTrainConfig(**options, weight_decay=0.1, print_every=None), rows())
    assert not torch.equal(model.W_U, before["unembed.W_U"])


@pytest.mark.usefixtures("as_installed")
def test_training_refuses_what_it_does_not_do():
    wrong: Any
    for wrong, said in (({"optimizer_name": "Lion"}, "Lion"), ({"wandb": True}, "wandb")):
        with pytest.raises(ConfigError, match=said):
            train(small(), HookedTransformerTrainConfig(num_epochs=1, batch_size=1, device="cpu", **wrong), rows())


# ---------------------------------------------------------------------------------------------- evals


def test_the_loss_on_a_data_set_is_the_mean_over_batches():
    model = small()
    batches = [{"tokens": torch.tensor([[0, 1, 2, i]])} for i in range(4)]
    losses = [model(batch["tokens"], return_type="loss").item() for batch in batches]
    assert evals.evaluate_on_dataset(model, batches, device="cpu") == pytest.approx(sum(losses) / 4)
    assert evals.evaluate_on_dataset(model, batches, truncate=1, device="cpu") == pytest.approx(sum(losses[:2]) / 2)


@pytest.mark.parametrize("bos", [False, True])
def test_the_induction_loss_is_that_of_the_second_half(bos: bool):
    model = small(words=[f"w{i}" for i in range(20_000)])
    torch.manual_seed(0)
    loss = evals.induction_loss(model, batch_size=2, subseq_len=5, prepend_bos=bos, device="cpu")
    torch.manual_seed(0)
    tokens = torch.randint(100, 20_000, (2, 5)).repeat(1, 2)
    if bos:
        tokens[:, 0] = 0
    log_probs = model(tokens).log_softmax(-1)
    want = [-log_probs[b, i - 1, tokens[b, i]] for b in range(2) for i in range(7, 10)]
    assert_close(loss, torch.stack(want).mean())
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        evals.induction_loss(small(words=None), device="cpu")
    with pytest.raises(ConfigError, match="evaluate_on_dataset"):
        evals.make_wiki_data_loader(None)


# ---------------------------------------------------------------------------------------------- components


def test_parts_of_a_model_are_what_their_names_say():
    plain: Any = transformer_lens.HookedTransformer.over(run_of("learned_ln").fresh_model())
    grouped: Any = transformer_lens.HookedTransformer.over(run_of("rotary_rms_gated_grouped").fresh_model())
    block, other = plain.blocks[0], grouped.blocks[0]
    for part, names in {
        plain.ln_final: {"LayerNorm"},
        grouped.ln_final: {"RMSNorm"},
        block.attn: {"AbstractAttention", "Attention"},
        other.attn: {"AbstractAttention", "GroupedQueryAttention"},
        block.mlp: {"MLP"},
        other.mlp: {"GatedMLP"},
        block: {"TransformerBlock"},
        plain.embed: {"Embed"},
        plain.unembed: {"Unembed"},
    }.items():
        own: dict[str, Any] = {n: kind for n, kind in vars(components).items() if isinstance(kind, components.Part)}
        assert {name for name, kind in own.items() if isinstance(part, kind)} == names
    assert isinstance(plain.pos_embed, components.PosEmbed)
    with torch.no_grad():
        plain.ln_final.w.fill_(1)
        plain.ln_final.b.zero_()
    assert isinstance(plain.ln_final, components.LayerNormPre)


def test_a_models_positions_are_embedded_by_where_tokens_stand():
    model = small()
    tokens = torch.tensor([[4, 4, 1], [0, 2, 3]])
    assert torch.equal(model.pos_embed(tokens), model.W_pos[:3].expand(2, -1, -1))
    assert torch.equal(model.pos_embed(tokens, 2), model.W_pos[2:5].expand(2, -1, -1))
    stream = model.embed(tokens) + model.pos_embed(tokens)
    assert_close(stream, model.run_with_cache(tokens)[1]["resid_pre", 0])
    model.pos_embed.W_pos = nn.Parameter(torch.zeros_like(model.W_pos))
    assert not model.core.W_pos.any()


def test_parts_are_made_from_a_config_and_compute_what_they_say():
    cfg = transformer_lens.HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=4, d_head=4, d_vocab=5, act_fn="relu")
    x = random_tensor(2, 3, 8).float()
    for kind in (components.LayerNorm, components.RMSNorm):
        norm = kind(cfg)
        assert norm.w is not None
        nn.init.normal_(norm.w)
        assert_close(norm(x), reference_norm(norm, x), atol=1e-5)
        assert kind(cfg, 6)(x[..., :6]).shape == (2, 3, 6)
    centred = x - x.mean(-1, keepdim=True)
    for kind, reads in ((components.LayerNormPre, centred), (components.RMSNormPre, x)):
        norm = kind(cfg)
        assert_close(norm(x), reads / (reads.square().mean(-1, keepdim=True) + 1e-5).sqrt(), atol=1e-5)
        assert not any(parameter.requires_grad for parameter in norm.parameters())
    for part in (
        components.MLP(cfg),
        components.GatedMLP(cfg),
        components.Attention(cfg),
        components.TransformerBlock(cfg, 0),
    ):
        for weight in part.parameters():
            nn.init.normal_(weight)
        assert part(x).shape == x.shape
    mlp = components.MLP(vars(cfg) | {"act_fn": "relu"})
    for weight in mlp.parameters():
        nn.init.normal_(weight)
    assert_close(mlp(x), (x @ mlp.W_in + mlp.b_in).relu() @ mlp.W_out + mlp.b_out, atol=1e-4)
    assert components.Embed(cfg)(torch.tensor([[1]])).shape == (1, 1, 8)
    assert components.Unembed(cfg)(x).shape == (2, 3, 5)
    with pytest.raises(ConfigError, match="no mixtures of experts"):
        components.MoE(cfg)


# ---------------------------------------------------------------------------------------------- test_prompt


def test_the_rank_of_an_answer_is_printed_token_by_token(capsys: Any):
    model = small()
    utils.test_prompt("a b", "[d]", model, prepend_space_to_answer=False, top_k=2)
    logits = model(torch.tensor([[0, 1, 2]]))[0, -1]
    rank = int((logits > logits[4]).sum())
    out = capsys.readouterr().out
    assert "Tokenized prompt: ['<s>', 'a', 'b']\nTokenized answer: ['[d]']\n" in out
    prob = f"{logits.softmax(-1)[4].item():6.2%}"
    assert re.search(rf"Rank: {rank} +Logit: {logits[4].item():5.2f} Prob: {re.escape(prob)} Token: \|\[d\]\|", out)
    likeliest = logits.argsort(descending=True)
    for i in range(2):
        assert f"Top {i}th token. Logit: {logits[likeliest[i]].item():5.2f}" in out
    assert "Top 2th" not in out
    assert f"Ranks of the answer tokens: [('[d]', {rank})]" in out


def test_several_answers_are_compared_by_their_first_tokens(capsys: Any):
    model = small()
    utils.test_prompt("a b", ["c", "a"], model, prepend_space_to_answer=False, print_details=False)
    logits = model(torch.tensor([[0, 1, 2]]))[0, -1]
    ranks = [(word, int((logits > logits[WORDS.index(word)]).sum())) for word in ("c", "a")]
    assert capsys.readouterr().out.strip() == f"Ranks of the answer tokens: {[ranks]}"
