# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Cache and patch: indirect object identification
#
# *When Mary and John went to the store, John gave a drink to* ... Mary. Wang et al. 2022 ("Interpretability in the
# Wild") found the circuit that solves this in GPT-2: name movers, S-inhibition heads, induction heads. Here the same
# tools are used on SmolLM2, a model of 135 million parameters with grouped keys, rotary positions and 30 layers. Heads
# of these three kinds turn out to be at work here, too; and one more, a suppressor, does more than any other head.
#
# The model is needed once on this machine: `interp fetch smollm2` downloads it.

# %%
import numpy as np
import torch

from interp import HookedTransformer
from interp.heads import head_scores, score_table
from interp.interventions import Interventions, Mean, Patch
from interp.lens import direct_attribution, logit_lens
from interp.metrics import LogitDifference
from interp.patching import path_sweep, path_tree, sweep
from interp.plot import figures

torch.set_grad_enabled(False)

model = HookedTransformer.from_pretrained("smollm2-135m-instruct")

# %% [markdown]
# ## Prompts in pairs
#
# Six pairs of names. Half of the prompts name the indirect object (IO) first, half the subject (S), so that no fixed
# position is the answer. The corrupted prompt lets the *other* one give the drink: one token differs, and the right
# answer changes sides. The metric is the difference of two logits, IO - S, at the last position.

# %%
NAMES = [("Mary", "John"), ("Anna", "Paul"), ("Sarah", "Tom"), ("Emma", "James"), ("Alice", "Mark"), ("Laura", "David")]
PROMPT = "When {} and {} went to the store, {} gave a drink to"

order = [(io, s) if i % 2 == 0 else (s, io) for i, (io, s) in enumerate(NAMES)]
clean = [PROMPT.format(*pair, s) for pair, (io, s) in zip(order, NAMES, strict=True)]
corrupted = [PROMPT.format(*pair, io) for pair, (io, s) in zip(order, NAMES, strict=True)]
IO, S = [f" {io}" for io, s in NAMES], [f" {s}" for io, s in NAMES]
metric = LogitDifference(IO, S)
S2, END = 9, 13  # where the subject comes again, and the last position
words = model.to_str_tokens(clean[0])
assert words[S2] == " John" and len(words) == END + 1
print(*clean[:2], sep="\n")

# %%
logits, cache = model.run_with_cache(clean)
_, corrupted_cache = model.run_with_cache(corrupted)
difference, swapped = metric(logits, model), metric(model(corrupted), model)
for (io, s), a, b in zip(NAMES, difference.tolist(), swapped.tolist(), strict=True):
    print(f"{io:6} - {s:6} clean {a:+.2f}   corrupted {b:+.2f}")
gap = float((difference - swapped).mean())
print(f"mean {float(difference.mean()):+.2f} and {float(swapped.mean()):+.2f}: a gap of {gap:.2f}")
right = [model.to_string(i[None]) for i in logits[:, -1].argmax(-1)]
assert right == IO and (difference > 4).all() and (swapped < -4).all()

# %% [markdown]
# ## When does the stream know? The logit lens
#
# The stream after every layer, read as if the model ended there. The most likely token says little before the very last
# layer, since the model keeps its stream far from what the unembedding reads. But the *difference* of the two logits
# can be followed: it leans to the subject, the name that was just said, until layer 23 turns it round in one step.

# %%
answers = [model.to_single_token(name) for name in (*IO, *S)]
lens = logit_lens(cache, clean, answers=answers, pos=-1, progress=False)
at = np.arange(len(NAMES))
through = lens["logit"].values[:, at, at] - lens["logit"].values[:, at, at + len(NAMES)]  # [layer, batch]
print("most likely after layers 10, 20 and 29:", lens["top_token"].values[[11, 21, 30], 0, 0].tolist())
steps = np.diff(through.mean(1))
turn = int(steps[:-1].argmax())
before, after = through.mean(1)[[turn, turn + 1]]
print(f"largest step: layer {turn}, from {before:+.2f} to {after:+.2f}; at the end {through[-1].mean():+.2f}")
assert turn == 23 and before < 0 < after and np.allclose(through[-1], difference, atol=1e-3)

layers = np.arange(31)
figures.curves(
    {
        prompt.split(" went")[0].removeprefix("When "): (layers, row)
        for prompt, row in zip(clean, through.T, strict=True)
    },
    title="Logit difference, IO - S, read by the lens at the last position",
    x="layers that have acted",
    y="logit difference",
)

# %% [markdown]
# ## Who wrote it? Direct logit attribution
#
# The final stream is a sum of what embeddings, heads and MLPs wrote, so the logit difference is a sum too. By heads: a
# few of layer 23 write the answer, two of layers 24 and 28 write against it, and in layer 29 two heads of opposite sign
# come close to cancelling.

# %%
right_ids, wrong_ids = torch.tensor(answers[: len(NAMES)]), torch.tensor(answers[len(NAMES) :])
by_head = direct_attribution(cache, right_ids, wrong_ids, by="head", pos=-1)
assert np.allclose(by_head["logit"], difference, atol=1e-3)
direct = by_head["attribution"].mean("prompt")
ranked = sorted(((float(v), str(n)) for v, n in zip(direct.values.ravel(), direct.label.values.ravel(), strict=True)))
for value, name in [*ranked[:-6:-1], *ranked[:4][::-1]]:
    print(f"{name:6} {value:+.2f}")
assert [name for _, name in ranked[:-3:-1]] == ["L23H3", "L29H1"] and ranked[0][1] == "L29H0"
figures.array(direct, title="Direct contribution to the logit difference", value="logits")

# %% [markdown]
# By the position that a head attended to: L23H3, the largest, does *not* look at the answer. Nearly all it writes comes
# from S2, the repeated name. L23H0 is a name mover as in the paper: its share comes from where the IO stands.

# %%
by_source = direct_attribution(cache, right_ids, wrong_ids, by="position", pos=-1, prompt=clean)["attribution"]
io_first = list(range(0, len(NAMES), 2))
heads = {"L23H3": (23, 3), "L23H0": (23, 0), "L24H4": (24, 4), "L29H1": (29, 1), "L29H0": (29, 0)}
chosen = {name: by_source[at][io_first].mean("prompt").values for name, at in heads.items()}
assert chosen["L23H3"].argmax() == S2 and chosen["L23H0"].argmax() == 1 and chosen["L24H4"].argmin() == 1
assert chosen["L29H1"].argmax() == chosen["L29H0"].argmin() == END
figures.heatmap(
    np.stack(list(chosen.values())),
    list(chosen),
    words,
    title="Direct contribution by attended position, prompts with the IO first",
    x="attended position (tokens of the first prompt)",
    y="head",
    value="logits",
    signed=True,
)

# %% [markdown]
# And what does L23H3 write there? Not the IO: it pushes the *subject* down. We call it the *suppressor*.

# %%
written = cache.stack_head_results()
for name in ("L23H3", "L23H0", "L29H1"):
    row = model.ln_final.at_scale(written[name][:, END], cache["ln_final.hook_scale"][:, END]) @ model.W_U
    row = row - row.mean(-1, keepdim=True)
    of_io, of_s = (float(row.gather(1, ids[:, None]).mean()) for ids in (right_ids, wrong_ids))
    print(f"{name}: logit of IO {of_io:+.2f}, of S {of_s:+.2f}, against the mean logit")
    if name == "L23H3":
        assert of_s < -1.5 and abs(of_io) < 0.5
        repeated = (float(cache["pattern", 23][:, 3, END, S2].mean()), of_s)

# %% [markdown]
# Does this head look for the name that came *twice*? The control: a third name, which occurs once, gives the drink
# (*When Mary and John went to the store, Emma gave a drink to*). L23H3 attends to that name as well, somewhat less, and
# pushes it down nearly as far; names that only came earlier it hardly touches. So it suppresses the name that gives,
# repeated or not. (The copy suppression that McDougall et al. 2023 describe in GPT-2 is something else: a head that
# attends to a name when the model is about to say it. Whether L23H3 depends on that was not tested.)

# %%
thirds = [NAMES[(i + 3) % len(NAMES)][i % 2] for i in range(len(NAMES))]
third_ids = torch.tensor([model.to_single_token(f" {name}") for name in thirds])
abc = [PROMPT.format(*pair, third) for pair, third in zip(order, thirds, strict=True)]
_, abc_cache = model.run_with_cache(abc)
scale = abc_cache["ln_final.hook_scale"][:, END]
row = model.ln_final.at_scale(abc_cache.stack_head_results()["L23H3"][:, END], scale) @ model.W_U
row = row - row.mean(-1, keepdim=True)
of_third, of_first_two = row.gather(1, third_ids[:, None]), row.gather(1, torch.stack([right_ids, wrong_ids], 1))
to_third = abc_cache["pattern", 23][:, 3, END, S2]
print(f"the name that gives, repeated: attention {repeated[0]:.2f}, written on its logit {repeated[1]:+.2f}")
print(
    f"the name that gives, not repeated: attention {float(to_third.mean()):.2f} (from {float(to_third.min()):.2f} to "
    f"{float(to_third.max()):.2f}), written {float(of_third.mean()):+.2f} (from {float(of_third.min()):+.2f} to "
    f"{float(of_third.max()):+.2f})"
)
print(f"the two names before it: written {float(of_first_two.mean()):+.2f}")
assert 0.3 < to_third.mean() < repeated[0] and to_third.min() > 0.2 and of_third.max() < -0.8
assert of_third.mean() < 0.7 * repeated[1] and of_first_two.mean() > of_third.mean() / 2

# %% [markdown]
# ## Where is it? Patching the stream
#
# Denoising: the corrupted prompt runs, and one place of the stream gets its value from the clean run. 0 changes
# nothing, 1 restores the whole difference. Up to layer 19 everything is at S2 (the only token that differs); between
# layers 20 and 25 it moves to the last position, and next to nothing of it stays at the positions between.

# %%
stream = sweep(model, corrupted, clean, metric, "resid_pre", normalize=True, progress=False)
assert (stream[:18, S2] > 0.9).all() and (stream[26:, END] > 0.9).all() and float(abs(stream[:, 1:S2]).max()) < 0.05
assert float(abs(stream[:, S2 + 1 : END]).max()) < 0.1
figures.sweep(stream)

# %% [markdown]
# ## Which heads carry it?
#
# The outputs of single heads (`z`) at the two positions, in both directions. Denoising asks what *suffices* to bring a
# part back, noising what is *necessary*. Restricted to layers from 15 on, since nothing moves before. The suppressor is
# the largest in both, with nearly half of the difference. Intervals over the six prompts are in the hover text.

# %%
options = {"layers": range(15, 30), "positions": [S2, END], "normalize": True, "progress": False}
denoised = sweep(model, corrupted, clean, metric, "z", ("layer", "head", "pos"), **options)
noised = sweep(model, corrupted, clean, metric, "z", ("layer", "head", "pos"), direction="noising", **options)
for where, pos in (("S2", S2), ("the last position", END)):
    print(f"at {where}:{'denoising':>18} {'noising':>22}")
    for i in np.argsort(-abs(denoised.sel(pos=pos).values).ravel())[: 2 if pos == S2 else 8]:
        layer, head = 15 + i // 9, i % 9
        cells = [one.sel(layer=layer, head=head, pos=pos) for one in (denoised, noised)]
        both = [f"{float(c):+.2f} [{float(c.ci_low):+.2f}, {float(c.ci_high):+.2f}]" for c in cells]
        print(f"  L{layer}H{head:<4} {both[0]:>22} {both[1]:>22}")
agree = np.corrcoef(denoised.values.ravel(), noised.values.ravel())[0, 1]
print(f"correlation of the two directions over {denoised.size} places: {agree:.3f}")
assert agree > 0.95
for layer, head, pos in ((17, 4, S2), (23, 3, END), (29, 1, END), (20, 0, END), (19, 2, END), (23, 0, END)):
    for one in (denoised, noised):
        assert float(one.ci_low.sel(layer=layer, head=head, pos=pos)) > 0
for one in (denoised, noised):
    assert float(one.sel(layer=23, head=3, pos=END)) == float(abs(one).max()) > 0.35
figures.sweep(denoised.sel(pos=END))

# %% [markdown]
# ## What do these heads do elsewhere?
#
# Their attention here, and their scores on random text with repeats (`head_scores`). L17H4, which matters at S2, is an
# induction head: from the repeated name it attends to what came after the name's first occurrence. L20H0 and L19H2
# attend from the last position to S2, as S-inhibition heads do.

# %%
scores = head_scores(model, scores=["induction", "duplicate_token", "previous_token"], n_prompts=4, progress=False)
names = ["L17H4", "L19H2", "L20H0", "L23H0", "L23H3", "L24H4", "L29H0", "L29H1"]
print(score_table(scores).loc[names].round(2).to_string())
assert float(scores["induction"][17, 4]) > 0.6

from_s2 = cache["pattern", 17][:, 4, S2]
after_s1 = torch.tensor([4 if i % 2 == 0 else 2 for i in range(len(NAMES))])
on_follower = float(from_s2.gather(1, after_s1[:, None]).mean())
print(f"L17H4 at S2: {on_follower:.2f} on the token after the first occurrence")
on_s2 = {f"L{i}H{h}": float(cache["pattern", i][:, h, END, S2].mean()) for i, h in ((19, 2), (20, 0), (23, 3))}
print("attention to S2 from the last position:", {name: round(value, 2) for name, value in on_s2.items()})
assert on_follower > 0.6 and min(on_s2.values()) > 0.35

# %% [markdown]
# ## Who talks to whom? Path patching
#
# The effect of a sender *by way of* given inputs of later heads, everything else as it was (Wang et al. 2022). First:
# which heads steer the *queries* of the layer-23 name movers? L20H0 and L19H2. Noising lets the clean prompt run, so
# negative values mean that the path helped.

# %%
queries = ["L23H0.q", "L23H1.q", "L23H2.q", "L23H7.q"]
senders = [f"L{layer}H{head}" for layer in range(17, 23) for head in range(9)]
to_queries = path_sweep(model, corrupted, clean, metric, queries, senders, effects=True, progress=False)


def strongest(result, n=3):
    """Senders by the size of their effect."""
    first = np.argsort(-np.nan_to_num(abs(result.values)))[:n]
    return [(str(result.component.values[i]), float(result[i])) for i in first]


for name, change in strongest(to_queries):
    print(f"{name} -> queries of L23H0, H1, H2, H7: {change:+.2f}")
assert {name for name, _ in strongest(to_queries, 2)} == {"L20H0", "L19H2"}
figures.bars(
    np.array([change for _, change in strongest(to_queries, 10)]),
    [name for name, _ in strongest(to_queries, 10)],
    title="Effect by way of the queries of L23H0, H1, H2 and H7, noising",
    x="change of the logit difference",
    y="sender",
)

# %% [markdown]
# One step further back: what do the values of L20H0 and L19H2 read at S2? Keys and values are shared by three query
# heads in this model, so receivers count key-value heads: both use number 0 of their layer. The sender is the induction
# head.

# %%
senders = [f"L{layer}H{head}" for layer in range(16, 20) for head in range(9)]
receivers = ["L19H0.v", "L20H0.v"]
to_values = path_sweep(model, corrupted, clean, metric, receivers, senders, effects=True, progress=False)
for name, change in strongest(to_values):
    print(f"{name} -> values of L19H2 and L20H0: {change:+.2f}")
(first, effect), (_, second) = strongest(to_values, 2)
assert first == "L17H4" and effect < -0.8 and abs(second) < abs(effect) / 2

# %% [markdown]
# And L23H3, the suppressor? It reads the name that stands at S2: one path, from the token through the first MLP into
# its values, carries most of its effect. No head writes directly to these values what matters here: all 207 heads of
# earlier layers together carry next to nothing. `path_tree` lets only the named paths differ; after an input that
# several heads share, a path says with which of them it goes on.

# %%
values_of_L23H3 = ["L23H1.v", "L23H3"]  # key-value head 1 serves the heads 3 to 5
options = {"effects": True}
whole = path_tree(model, corrupted, clean, metric, [["L23H3", "logits"]], **options)
from_token = path_tree(model, corrupted, clean, metric, [["embed", "L0.mlp", *values_of_L23H3, "logits"]], **options)
earlier_heads = [f"L{layer}H{head}" for layer in range(23) for head in range(9)]
paths = [[head, *values_of_L23H3, "logits"] for head in earlier_heads]
from_heads = path_tree(model, corrupted, clean, metric, paths, **options)
found = {
    "L23H3 -> logits": whole,
    "embed -> L0.mlp -> values of L23H3 -> logits": from_token,
    "all earlier heads -> values of L23H3 -> logits": from_heads,
}
for name, one in found.items():
    print(f"{name:46} {float(one):+.2f}")
assert float(from_token) < 0.5 * float(whole) and abs(float(from_heads)) < 0.3

# %% [markdown]
# ## The circuit
#
# 1. **Induction.** At S2, L17H4 finds the first occurrence of the name, and writes a mark into the stream at S2.
# 2. **S-inhibition.** At the last position, L20H0 and L19H2 attend to S2 and carry the mark there. It turns the queries
#    of the **name movers** L23H0, H1, H2, H7 from S to IO.
# 3. **Suppression.** L23H3 attends to the name at S2, repeated or not, and lowers the logit of that name.
# 4. **In the last layers** L29H1 attends to its own position and raises what is there, L29H0 and L24H4 lower it.
#
# Interventions are values: they can be added, hashed, saved, and put on any run. Here the circuit's heads, at their
# positions, get what they had in the *clean* run, while the *corrupted* prompt runs.

# %%
movers = [(23, head, END) for head in (0, 1, 2, 7)]
MEMBERS = [(17, 4, S2), (19, 2, END), (20, 0, END), (23, 3, END), *movers, (24, 4, END), (29, 0, END), (29, 1, END)]


def patches(members, source):
    return Interventions(tuple(Patch(source, site="z", layer=i, head=h, pos=p) for i, h, p in members))


def share(tokens, interventions):
    """The logit difference under interventions: 0 for the corrupted run, 1 for the clean one."""
    with model.intervene(interventions):
        return float((metric(model(tokens), model) - swapped).mean()) / gap


circuit = patches(MEMBERS, cache)
print(*list(circuit)[:3], "...", sep="\n")
restored, left = share(corrupted, circuit), share(clean, patches(MEMBERS, corrupted_cache))
print(f"{len(MEMBERS)} heads restored in the corrupted run: {restored:.2f} of the clean difference")
print(f"the same heads corrupted in the clean run: {left:.2f} is left")
assert restored > 0.75 and left < 0.25

# %% [markdown]
# Is that much? Take as many other heads at random, from the same range of layers and at the same positions. They do
# next to nothing.

# %%
generator = np.random.default_rng(0)
bystanders = [(i, h) for i in range(17, 30) for h in range(9) if (i, h) not in {m[:2] for m in MEMBERS}]
drawn = [generator.choice(bystanders, len(MEMBERS), replace=False).tolist() for _ in range(5)]
others = [share(corrupted, patches([(*one, m[2]) for one, m in zip(d, MEMBERS, strict=True)], cache)) for d in drawn]
print("random heads:", [round(one, 2) for one in others])
assert max(map(abs, others)) < 0.25

# %% [markdown]
# ## A check by ablation
#
# Without another prompt's activations: replace the heads' outputs by their mean over all 12 prompts (which names both
# answers equally often). What the mean cannot carry is *which* name is the answer.

# %%
_, both = model.run_with_cache([*clean, *corrupted], names_filter="blocks.*.attn.hook_z")


def ablated(members):
    mean = Interventions(tuple(Mean(both, site="z", layer=i, head=h, pos=p) for i, h, p in members))
    with model.intervene(mean):
        return metric(model(clean), model)


groups = {
    "nothing": [],
    "induction L17H4": MEMBERS[:1],
    "S-inhibition L19H2, L20H0": MEMBERS[1:3],
    "name movers L23H0/1/2/7": movers,
    "suppressor L23H3": [(23, 3, END)],
    "all of these": MEMBERS[:8],
}
effects = {name: ablated(members) for name, members in groups.items()}
for name, values in effects.items():
    print(f"{name:32} {float(values.mean()):+.2f}  (from {float(values.min()):+.2f} to {float(values.max()):+.2f})")
means = {name: float(values.mean()) for name, values in effects.items()}
assert means["all of these"] < 0.3 * means["nothing"]
assert all(value < means["nothing"] - 0.1 for name, value in means.items() if name != "nothing")
figures.bars(
    torch.tensor(list(means.values())),
    list(means),
    title="Mean logit difference after mean ablation",
    x="IO - S, logits",
    y="ablated",
)

# %% [markdown]
# What these numbers do not say: the prompts follow one template, and the intervals over six prompts are over names
# alone. The mark that L17H4 writes was traced, not decoded. And MLPs, which add to the answer in the last layers, were
# left as they are.
