"""Circuits hidden in larger models: they do what they did, and the graph says what they are."""

import math
import re

import pytest
import torch
from test_compiled_edges import from_weights, names, written

from circuits import Circuit, copy, match, shift
from circuits.compiler import CODES, CompiledTransformer, Distract, Noise
from circuits.gallery import entry
from interp import ConfigError, HookedTransformer, RankError, TransformerConfig
from interp.model import Writer

NAMES = ("induction_latest", "sort", "virtual_head")


def some(name: str, n: int = 200) -> tuple[Circuit, list[str]]:
    """A circuit of the gallery, and some of its inputs."""
    one = entry(name)
    inputs = list(one.inputs())
    return one.build(), inputs[:: 1 + len(inputs) // n]


def large(name: str, **options) -> tuple[Circuit, CompiledTransformer, list[str]]:
    """A circuit in a model of twice its width and depth, with noise and distractors."""
    circuit, inputs = some(name)
    plain = circuit.compile()
    sizes = {"d_model": 4 * plain.cfg.d_model + 6, "n_layers": 2 * plain.cfg.n_layers, "n_heads": 5, "d_mlp": 170}
    asked = {"fill": Noise(seed=1), "distract": Distract(4, seed=2), "dtype": torch.float64, **sizes, **options}
    return circuit, circuit.compile(**asked), inputs


# ---------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options", [{}, {"rotate": 3}, {"norm": "LN", "rotate": 0}], ids=["plain", "rotated", "normed"]
)
def test_a_hidden_circuit_does_what_it_did(name: str, options):
    circuit, model, inputs = large(name, **options)
    assert model.cfg.n_heads == 5 and model.cfg.n_layers == 2 * circuit.n_layers
    assert circuit.verify(inputs, model=model, progress=False).ok
    weights = [p for n, p in model.named_parameters() if n.endswith(("W_Q", "W_V", "W_O", "W_out"))]
    assert all(bool(one.any()) for one in weights)


@pytest.mark.parametrize("code", CODES)
def test_in_every_position_code_it_does_what_it_did(code: str):
    c = Circuit("!ab", 6, bos="!")
    prev = c.space("prev", c.tok)
    c.head("back", qk=match(c.pos, c.pos, shift(2)), ov=copy(c.tok, prev))
    c.mlp("swap", prev, c.out, {"a": "b", "b": "a"})
    model = c.compile(positions=code, fill=Noise(), distract=Distract(3), n_heads=4, n_layers=3, dtype=torch.float64)
    assert c.verify(model=model, progress=False).ok


def test_noise_is_everywhere_and_explodes_nowhere():
    _, model, inputs = large("sort", n_layers=12, rotate=1)
    tokens = model.circuit.tokens([text for text in inputs if len(text) == 6])
    _, cache = model.run_with_cache(tokens)
    sizes = [float(cache["resid_post", layer].norm(dim=-1).max()) for layer in range(12)]
    assert max(sizes) < 5 * sizes[0]  # as the root of the number of layers: noise adds up, and does not multiply
    hidden = model.report.hidden
    assert hidden is not None
    taken = {*model.nodes.values(), *hidden.distractors.values()}
    for layer in range(12):
        patterns = cache["pattern", layer]
        for head in (h for h in range(5) if f"L{layer}H{h}" not in taken):
            assert 0.02 < float(patterns[:, head, -1].std(-1).mean()) < 0.45  # neither flat nor one-hot
        out = cache["mlp_out", layer]
        assert 1e-3 < float(out.std()) < 1


def test_without_room_for_noise_there_are_twice_as_many_directions():
    circuit, inputs = some("induction_latest")
    model = circuit.compile(fill=Noise())
    assert model.cfg.d_model == 2 * model.report.n_coordinates == 52
    assert circuit.verify(inputs, model=model, progress=False).ok
    with pytest.raises(ConfigError, match="fill: d_model = 26 leaves no spare direction, as the circuit takes 26"):
        circuit.compile(fill=Noise(), d_model=26)


def test_a_tied_circuit_does_not_read_the_noise():
    c = Circuit("!ab", 5, tied=True)
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=3 * copy(c.tok, c.out), sink=0)
    assert c.compile().cfg.tie_word_embeddings
    assert c.verify(model=c.compile(fill=Noise(std=1)), progress=False).ok


def test_one_seed_gives_one_model_and_another_seed_another():
    circuit, _ = some("induction_latest")
    before = torch.get_rng_state()
    models = [circuit.compile(fill=Noise(seed=s), distract=Distract(2, seed=s), n_heads=4) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert len({tuple(model.nodes.values()) for model in models}) == 2


def test_noise_that_leaks_reaches_what_the_circuit_reads_and_too_much_of_it_is_an_error():
    circuit, inputs = some("induction_latest")
    model = circuit.compile(fill=Noise(leak=0.1), n_heads=3, error=0.01, dtype=torch.float64)
    report = circuit.verify(inputs, model=model, tolerance=0.2, progress=False)
    assert report.ok and 1e-3 < report.logit_error < 0.2
    names_head = r"head '(previous|induction)': .*its pattern is off .*; use a smaller leak=, or a smaller error="
    with pytest.raises(ConfigError, match=names_head):
        circuit.compile(fill=Noise(leak=8.0), n_heads=3)


# ---------------------------------------------------------------------------------------------- the graph


@torch.no_grad()
def that_reach_the_logits(model: HookedTransformer) -> set[str]:
    """Edges along which the product of the weights is not zero, and from where more such edges lead to the logits.

    Of an MLP only those neurons are looked at of which this is true.
    """
    found: set[str] = set()
    reads = {"logits": model.W_U}

    def reached(writer: str, writes: torch.Tensor, before: tuple[str, ...]) -> bool:
        ends = {r for r in before if float((writes @ reads[r]).abs().max()) > 1e-8 * float(writes.abs().max())}
        found.update(f"{writer} -> {end}" for end in ends)
        return bool(ends)

    for layer in reversed(range(model.cfg.n_layers)):
        block, later = model.blocks[layer], tuple(reads)
        if not model.cfg.attn_only:
            together = torch.cat([reads[reader] for reader in later], dim=1)
            used = (block.mlp.W_out @ together).abs().amax(1) > 1e-8
            if used.any() and reached(f"L{layer}.mlp", block.mlp.W_out[used], later):
                reads[f"L{layer}.mlp"] = block.mlp.W_in[:, used]
        later = tuple(reads)
        for head in range(model.cfg.n_heads):
            if reached(f"L{layer}H{head}", block.attn.W_O[head], later):
                for kind in "qkv":
                    reads[f"L{layer}H{head}.{kind}"] = getattr(block.attn, f"W_{kind.upper()}")[head]
    reached("embed", written(model, Writer("embed")), tuple(reads))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_edges_of_a_hidden_circuit_are_those_of_its_weights_that_reach_the_logits(name: str):
    circuit, model, _ = large(name, rotate=1)
    listed = names(model)
    assert listed < from_weights(model)  # noise reads everything
    assert listed == that_reach_the_logits(model)
    assert len(listed) == circuit.edges().number_of_edges()


def test_the_graph_and_the_nodes_say_where_the_parts_are():
    circuit, model, _ = large("induction_latest")
    nodes = model.nodes
    assert set(nodes) == {"embed", "pos_embed", "unembed", "previous", "induction"}
    assert [nodes[name][:2] for name in ("previous", "induction")] == ["L0", "L2"]
    assert {model.edges().nodes[nodes[name]]["parts"] for name in ("previous", "induction")} == {
        ("previous",),
        ("induction",),
    }
    assert model.edges().has_edge(nodes["previous"], nodes["induction"], "K")
    assert model.edges().nodes["logits"]["layer"] == 4
    _, cache = model.run_with_cache("!abacb")
    for name in ("previous", "induction"):
        layer, head = (int(n) for n in re.findall(r"\d+", nodes[name]))
        assert torch.allclose(
            cache["pattern", layer][0, head], circuit.interpret("!abacb").patterns[name][0], atol=1e-5
        )


def test_layers_can_be_chosen():
    circuit, inputs = some("induction_latest")
    model = circuit.compile(n_layers=6, layers=[3, 5])
    assert model.nodes["previous"] == "L3H0" and model.nodes["induction"] == "L5H0"
    assert circuit.verify(inputs, model=model, progress=False).ok
    assert circuit.compile(layers=(1, 2)).cfg.n_layers == 3
    for layers, message in (
        ([0], "allowed: one of the model's for each of the circuit's 2|allowed: a layer of the model for each"),
        ([1, 1], "allowed: layers that ascend"),
        ([0, 6], "n_layers = 6, but the circuit needs 7: head 'induction' is in layer 6"),
    ):
        with pytest.raises(ConfigError, match=message):
            circuit.compile(n_layers=6, layers=layers)


# ---------------------------------------------------------------------------------------------- distractors


@torch.no_grad()
def test_distractors_attend_to_something_copy_it_into_directions_of_their_own_and_read_one_another():
    circuit, inputs = some("induction_latest")
    model = circuit.compile(distract=Distract(8, seed=1), n_layers=4, dtype=torch.float64)
    assert circuit.verify(inputs, model=model, progress=False).ok
    hidden = model.report.hidden
    assert hidden is not None and len(hidden.distractors) == 8
    assert not set(hidden.distractors.values()) & set(model.nodes.values())
    found = from_weights(model)
    among = [
        f"{a} -> {b}.{kind}" for a in hidden.distractors.values() for b in hidden.distractors.values() for kind in "qkv"
    ]
    assert found & set(among)
    text = "!abacb"
    _, cache = model.run_with_cache(text)
    for name, node in hidden.distractors.items():
        layer, head = (int(n) for n in re.findall(r"\d+", node))
        assert float((cache["z", layer][:, :, head] @ model.W_O[layer, head]).norm()) > 0.5
        if name.endswith("1 back"):
            assert float(cache["pattern", layer][0, head].diagonal(-1).min()) > 0.9


def test_where_there_is_one_position_only_noise_is_no_larger():
    c = Circuit("!ab", 1, bos="!")
    c.head("rests", qk=match(c.one, c.one), ov=copy(c.one, c.out, {"1": "b"}))
    model = c.compile(fill=Noise(std=0.2), distract=Distract(3), n_heads=7, positions="sinusoidal", d_model=148)
    _, cache = model.run_with_cache("!")
    assert float(cache["attn_out", 0].norm()) < 2 * float(cache["resid_pre", 0].norm())


def test_distractors_fit_into_what_the_model_has():
    circuit, inputs = some("ioi", 50)
    plain = circuit.compile()
    model = circuit.compile(distract=Distract(5), d_head=plain.cfg.d_head, d_model=plain.cfg.d_model + 11)
    assert model.cfg.d_head == plain.cfg.d_head
    assert circuit.verify(inputs, model=model, progress=False).ok
    with pytest.raises(ConfigError, match=r"Distract\(heads=5, seed=0\): 3 dimensions of the stream are left for what"):
        circuit.compile(distract=Distract(5), d_model=plain.cfg.d_model + 3)
    with pytest.raises(ConfigError, match=r"Distract\(heads=9, seed=0\): n_heads = 3 leaves room for \d beside"):
        circuit.compile(distract=Distract(9), n_heads=3)


# ---------------------------------------------------------------------------------------------- slack


def test_with_slack_a_bucket_whose_numbers_lie_unevenly_stays_exact():
    c = Circuit("abc", 3)
    found = c.readout("found", range(4))
    number = c.embed("number", {"a": [0.0], "b": [1.0], "c": [1.1]})
    c.bucket("near", number, found, {0: 0.0, 1: 1.0, 2: 1.1, 3: 5.0})
    model = c.compile(slack=0.2, dtype=torch.float64)
    readout = model.readout(model.embedded("abc"), "found")[0]
    assert torch.allclose(readout, torch.eye(3, 4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_with_slack_gradients_flow_through_tables_and_what_is_exact_stays_exact():
    c = Circuit("!ab", 4, bos="!")
    kind = c.space("kind", ["x", "y"])
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, kind, {"a": "x", "b": "y"}))
    c.mlp("table", (kind, c.tok), c.out, {("x", "a"): "b", ("x", "b"): "a", ("y", "a"): "!"})
    for slack in (0.0, 0.2):
        model = c.compile(slack=slack, dtype=torch.float64)
        report = c.verify(model=model, progress=False)
        assert report.ok and report.logit_error < 1e-5
        x = model(c.tokens("!aab"), stop_at_layer=0).detach().requires_grad_()
        model(x, start_at_layer=0)[0, 2, 2].backward()  # b after !aa
        through = x.grad[0, 1, c.layout().slices["tok"]]  # what the head copied from the position before
        assert (float(through.abs().max()) > 1e-3) == (slack > 0)
    soft = c.compile(slack=0.2, error=0.05)
    assert c.verify(model=soft, tolerance=0.1, progress=False).ok


def test_a_ramp_with_slack_has_its_slope_at_both_ends_and_is_level_beyond():
    c = Circuit("!ab", 2, bos="!")
    number = c.embed("number", {"a": [1.0]})
    c.bucket("bucket", number, c.out, {"a": 0.0, "b": 1.0})
    model = c.compile(slack=0.3, dtype=torch.float64)
    at = c.layout().slices

    def written(u: float) -> tuple[float, float]:
        x = model.W_E.detach()[1].clone()
        x[at["number"]] = u
        x.requires_grad_()
        b = model(x[None, None], start_at_layer=0)[0, 0, 2]
        (slope,) = torch.autograd.grad(b, x)
        return b.item(), slope[at["number"]].item()

    for u, b, slope in ((0, 0, 0.3), (1, 1, 0.3), (0.05, 0.015, 0.3), (0.5, 0.5, 1.7), (-3, 0, 0), (4, 1, 0)):
        assert written(u + 1e-9) == pytest.approx((b, slope), abs=1e-6)


def test_a_circuit_without_layers_can_be_hidden_and_has_no_slack():
    c = Circuit("!ab", 3, bos="!")
    c.direct(copy(c.tok, c.out, {"a": "b", "b": "a"}))
    noisy = c.compile(fill=Noise(leak=0.01), n_layers=2, d_mlp=9)
    for model in (noisy, c.compile(dtype=torch.float16, slack=0.2)):
        assert c.verify(model=model, tolerance=0.1, progress=False).ok


def test_slack_that_changes_a_prediction_is_an_error_that_names_the_declaration():
    circuit = entry("sort").build()
    with pytest.raises(ConfigError, match=r"(head|mlp) '\w+': .*; use a smaller slack=, or a smaller error="):
        circuit.compile(slack=0.9, error=0.2)


# ---------------------------------------------------------------------------------------------- sizes


def test_sizes_are_those_of_a_model_like_it_where_none_are_given():
    circuit, inputs = some("sort")
    cfg = TransformerConfig(n_layers=4, d_model=96, n_heads=3, d_head=32, d_mlp=200, n_ctx=9, d_vocab=7)
    model = circuit.compile(like=cfg, fill=Noise())
    for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp"):
        assert getattr(model.cfg, name) == getattr(cfg, name)
    assert circuit.verify(inputs, model=model, progress=False).ok
    other = circuit.compile(like=model, d_model=128, n_heads=2)
    assert (other.cfg.d_model, other.cfg.n_heads, other.cfg.d_mlp) == (128, 2, 200)
    attn_only = TransformerConfig(n_layers=4, d_model=96, n_heads=3, n_ctx=9, d_vocab=7, attn_only=True)
    with pytest.raises(ConfigError, match="attn_only = True, but the circuit has MLPs: 'item', '"):
        circuit.compile(like=attn_only)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"d_model": 40}, RankError, r"the circuit's spaces need d_model >= 51 but d_model = 40 \(\w+ \d+, \w+ \d+"),
        ({"d_head": 6}, RankError, "head 'smaller': the QK circuit needs d_head >= 25 but d_head = 6"),
        ({"d_mlp": 20}, ConfigError, r"d_mlp = 20, but layer \d needs \d+ neurons \('.+' \d+\)"),
        ({"n_layers": 2}, ConfigError, "n_layers = 2, but the circuit needs 3: head 'fetch' is in layer 2"),
        ({"like": "gpt2"}, ConfigError, "like = 'gpt2'; allowed: a HookedTransformer, or its config"),
        ({"fill": 0.1}, ConfigError, "fill = 0.1; allowed: a Noise, or None"),
        ({"distract": 3}, ConfigError, "distract = 3; allowed: a Distract, or None"),
        ({"slack": 1.0}, ConfigError, "slack = 1.0; allowed: from 0 on, and below 1"),
        ({"n_layers": 0}, ConfigError, "n_layers = 0; allowed: 1 or more"),
        ({"fill": Noise(), "compress": True, "d_model": 30}, ConfigError, "compress = True leaves no spare directions"),
    ],
)
def test_a_circuit_that_is_too_wide_for_the_model_is_an_error_that_names_what_needs_the_room(
    options, kind, message: str
):
    with pytest.raises(kind, match=message):
        entry("sort").build().compile(**options)


def test_heads_that_are_too_many_are_named():
    c = Circuit("!ab", 3, bos="!")
    for name in ("one", "other", "third"):
        c.head(0, name, qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    with pytest.raises(ConfigError, match="n_heads = 2, but layer 0 needs 3: 'one', 'other', 'third'"):
        c.compile(n_heads=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(std=0), "Noise: std = 0; allowed: a finite number above 0"),
        (lambda: Noise(std=math.inf), "Noise: std = inf"),
        (lambda: Noise(leak=-1), "Noise: leak = -1; allowed: a finite number from 0 on"),
        (lambda: Noise(seed=True), "seed = True; allowed: "),
        (lambda: Distract(0), "Distract: heads = 0; allowed: 1 or more"),
        (lambda: Distract(2, seed=-1), "seed = -1; allowed: "),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_what_cannot_hide_a_circuit_is_refused(make, message: str):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_report_says_what_was_hidden():
    _, model, _ = large("induction_latest")
    hidden = model.report.hidden
    assert hidden is not None
    assert (hidden.layers, hidden.n_layers, hidden.noise_heads, hidden.noise_neurons) == ((0, 2), 4, 14, 4 * 170)
    assert hidden.spare == model.cfg.d_model - model.report.n_coordinates
    said = repr(model.report)
    assert "hidden in 4 layers, its own are 0, 2" in said and "noise in 14 heads and 680 neurons" in said
    assert all(name in said for name in hidden.distractors)
    assert entry("sort").build().compile().report.hidden is None
