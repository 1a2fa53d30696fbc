"""Hook points in modules of one's own, ids as a hook point, and the table of all points."""

import copy
import pickle
from typing import Any

import pytest
import torch
from grid import SMALL, Run, assert_close, build, config, random_tensor, run_of
from torch import Tensor, nn
from two_stacks import build_pair, random_prompts

from interp import (
    ConfigError,
    HookedModule,
    HookNotFiredError,
    HookNotFoundError,
    HookPoint,
    ShapeError,
    TokenError,
)
from interp.interventions import Zero
from interp.model.names import HookInfo, HookMap


class Autoencoder(nn.Module):
    """An ordinary module with points."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(24, 6).double(), nn.Linear(6, 24).double()
        self.hook_features = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.hook_features(self.encoder(x).relu()))


class Probe(HookedModule):
    """A module with named points, one of them in a part that knows nothing of names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Autoencoder()
        self.hook_answer = HookPoint("batch pos d_model", "what the probe says")
        self.name_hook_points({"d_model": 24})

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_answer(self.inner(x))


def test_points_of_a_module_of_ones_own_have_names_and_take_hooks():
    probe, x, seen = Probe(), random_tensor(2, 3, 24), {}

    def see(value: Tensor, hook: HookPoint) -> None:
        seen[hook.name] = value.shape

    with probe.hooks([("*", see), ("inner.hook_features", lambda features, hook: 0 * features)]):
        edited = probe(x)
    assert seen == {"inner.hook_features": (2, 3, 6), "hook_answer": (2, 3, 24)}
    assert torch.equal(edited, probe.inner.decoder.bias.expand(2, 3, 24))
    gradients: list[Tensor] = []
    with probe.hooks(bwd_hooks=[("answer", lambda gradient, hook: gradients.append(gradient))]):
        probe(x).sum().backward()
    assert torch.equal(gradients[0], torch.ones(2, 3, 24).double())
    probe.add_hook("answer", lambda value, hook: value + 1)
    assert torch.equal(probe(x), probe.inner(x) + 1)
    probe.reset_hooks()
    assert torch.equal(probe(x), probe.inner(x))


def test_mistakes_in_a_module_of_ones_own_are_named():
    probe = Probe()
    with pytest.raises(HookNotFoundError, match="did you mean 'hook_answer'"), probe.hooks([("hook_answr", print)]):
        pass
    with (
        pytest.raises(HookNotFiredError, match="no forward pass"),
        probe.hooks([("answer", lambda value, hook: value)]),
    ):
        pass
    with (
        pytest.raises(ShapeError, match=r"inner\.hook_features .* shape \(1,\); it must be \(1, 1, 6\)"),
        probe.hooks([("inner.hook_features", lambda value, hook: value[0, 0, :1])]),
    ):
        probe(random_tensor(1, 1, 24))
    with pytest.raises(ShapeError, match=r"'inner\.hook_features' has no axis of positions"):
        _ = probe.hook_points["inner.hook_features"].pos_axis


def test_the_error_of_a_module_of_ones_own_that_the_block_caught_is_followed_by_no_other():
    probe = Probe()
    with probe.hooks([("answer", lambda value, hook: value)]), pytest.raises(RuntimeError, match="shape"):
        probe(random_tensor(2, 3, 23))
    with (
        pytest.raises(HookNotFiredError, match="no forward pass"),
        probe.hooks([("answer", lambda value, hook: value)]),
        pytest.raises(KeyError),
    ):
        raise KeyError  # of no run

    class Unnamed(HookedModule):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("its own error")

    with pytest.raises(KeyError, match="its own error"):
        Unnamed()(random_tensor(2))


def test_the_table_of_a_module_of_ones_own_says_what_is_known():
    table = Probe().hook_map()
    assert [(row.name, row.shape) for row in table.values()] == [
        ("inner.hook_features", "any"),
        ("hook_answer", "batch pos d_model=24"),
    ]


def test_copies_of_a_module_of_ones_own_take_hooks_of_their_own():
    probe, x = Probe(), random_tensor(1, 2, 24)
    for twin in (copy.deepcopy(probe), pickle.loads(pickle.dumps(probe))):
        with twin.hooks([("answer", lambda value, hook: value + 1)]):
            assert torch.equal(twin(x), probe(x) + 1)


def test_a_part_with_points_can_be_put_into_a_model(plain: Run):
    model = plain.fresh_model()
    added = Autoencoder()
    model.add_module("sae", added)
    model.name_hook_points(model.axis_sizes)
    assert list(model.hook_points)[-1] == "sae.hook_features"

    def splice(x: Tensor, hook: HookPoint) -> Tensor:
        return added(x)

    with model.hooks([(("resid_pre", 1), splice)]):
        logits, cache = model.run_with_cache(plain.tokens, names_filter=["sae.hook_features", "*resid_post"])
    assert cache["sae.hook_features"].shape == (3, 7, 6)
    want = model(added(plain.cache["resid_pre", 1]), start_at_layer=1)
    assert torch.equal(logits, want)


def test_points_that_are_named_again_keep_the_sizes_of_their_axes(plain: Run):
    model = plain.fresh_model()
    before = model.hook_map()
    model.name_hook_points()
    assert list(model.hook_map().items()) == list(before.items())
    with pytest.raises(ConfigError, match="head = 4; allowed: -4 to 3"), model.intervene(Zero(site="z", head=4)):
        pass


def test_a_part_with_points_can_be_put_into_a_stack_of_a_pair():
    pair = build_pair("bart_like")
    prompts, want = random_prompts(pair, 5), build_pair("bart_like").run_with_cache(random_prompts(pair, 5))[1]
    pair.decoder.add_module("sae", Autoencoder())
    with pair.hooks([("*hook_z", lambda value, hook: None)]):
        pair.name_hook_points()  # hooks stay
        pair(prompts)
    assert list(pair.hook_points)[-1] == "decoder.sae.hook_features"
    assert [point.name for point in pair.hook_points.values()] == list(pair.hook_points)
    with pair.intervene(Zero(site=("z", "decoder"), layer=1, pos=-1) + Zero(site=("z", "encoder"), layer=2, head=1)):
        cache = pair.run_with_cache(prompts, names_filter="*hook_z")[1]
    assert not cache["z", 1, "decoder"][:, -1].any() and not cache["z", 2, "encoder"][:, :, 1].any()
    assert torch.equal(cache["z", 0, "encoder"], want["z", 0, "encoder"])
    with pytest.raises(ConfigError, match=r"sizes = .*each stack has its own"):
        pair.name_hook_points({"head": 2})


# ---------------------------------------------------------------------------------------------- ids


@torch.no_grad()
def test_an_edit_of_the_ids_is_what_the_model_reads(run: Run):
    other = run.tokens.flip(1)
    logits = run.model.run_with_hooks(run.tokens, fwd_hooks=[("hook_tokens", lambda ids, hook: other)])
    assert torch.equal(logits, run.model(other))

    def in_place(ids: Tensor, hook: HookPoint) -> None:
        ids[:, 2] = 5

    edited = run.tokens.clone()
    edited[:, 2] = 5
    given = run.tokens.clone()
    assert torch.equal(run.model.run_with_hooks(given, fwd_hooks=[("tokens", in_place)]), run.model(edited))
    assert torch.equal(given, run.tokens)


def test_the_loss_stays_that_of_the_ids_that_were_given(plain: Run):
    other = plain.tokens.flip(1)
    loss = plain.model.run_with_hooks(plain.tokens, "loss", fwd_hooks=[("tokens", lambda ids, hook: other)])
    predicted = torch.nn.functional.cross_entropy(
        plain.model(other)[:, :-1].flatten(0, 1), plain.tokens[:, 1:].flatten()
    )
    assert_close(loss, predicted)


def test_ids_are_cached_where_they_are_named_and_have_no_gradient(plain: Run):
    assert "hook_tokens" not in plain.cache and next(iter(plain.model.hook_points)) == "hook_tokens"
    _, cache = plain.model.run_with_cache(plain.tokens, "loss", names_filter=["tokens", "embed"], incl_bwd=True)
    assert list(cache) == ["hook_tokens", "hook_embed", "hook_embed_grad"]
    assert torch.equal(cache["tokens"], plain.tokens) and cache["tokens"].dtype == torch.int64
    sliced = plain.model.run_with_cache(plain.tokens, names_filter="tokens", pos_slice=[-1])[1]
    assert torch.equal(sliced["tokens"], plain.tokens[:, -1:])
    made = plain.model.generate(plain.tokens[:, :3], 3, names_filter="tokens", progress=False)
    assert made.cache is not None and torch.equal(made.cache["tokens"], made.tokens[:, :-1])


def test_ids_that_there_are_not_are_named(plain: Run, as_installed: None):
    for ids, error in ((plain.tokens + 11, TokenError), (plain.tokens.double(), ShapeError)):
        with pytest.raises(error):
            plain.model.run_with_hooks(plain.tokens, fwd_hooks=[("tokens", lambda given, hook, ids=ids: ids)])


# ---------------------------------------------------------------------------------------------- the table


def names_in(table: Any, text: str) -> list[str]:
    return [name for name in table if name in text]


@pytest.mark.parametrize("shown", [repr, lambda table: table._repr_html_()], ids=["text", "html"])
def test_blocks_that_are_alike_are_shown_once(shown: Any):
    model = build(config(SMALL, n_layers=30), 1)
    table = model.hook_map()
    text = shown(table)
    assert len(table) == 694 + 1 and not any(".29." in line or "blocks.0" in line for line in text.splitlines())
    assert "blocks.*.attn.hook_pattern" in text and "all 30" in text and "695 hook points" in text
    lines = [line for line in text.replace("<tr>", "\n").splitlines() if "hook_" in line]
    assert len(lines) == 28
    globs = [word for line in lines for word in line.replace("<", " ").replace(">", " ").split() if "*.h" in word]
    assert all(len(model.resolve_hooks(glob)) == 30 for glob in globs)
    full = shown(table.full)
    assert names_in(table, full) == list(table) == list(table.full)


def test_blocks_that_differ_are_shown_apart():
    def row(layer: int, size: int) -> HookInfo:
        return HookInfo(f"blocks.{layer}.hook_z", f"batch pos d_head={size}", "values", False)

    table = HookMap(row(layer, 9 if layer in (2, 3, 7) else 5) for layer in range(8))
    text = repr(table)
    assert "0 to 1, 4 to 6" in text and "2 to 3, 7" in text and "all" not in text
    one = HookMap([row(0, 5), HookInfo("blocks.1.hook_own", "any", "mine", True)])
    assert "blocks.1.hook_own" in repr(one) and "(lazy)" in repr(one) and "*" not in repr(one)


def test_a_part_that_one_block_has_alone_is_shown_with_its_number():
    model = run_of("learned_ln").fresh_model()
    model.blocks[1].add_module("sae", Autoencoder())
    model.name_hook_points(model.axis_sizes)
    assert "blocks.1.sae.hook_features" in repr(model.hook_map())
