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
# # Attention in a real model
#
# SmolLM2-135M-Instruct has 30 layers of 9 heads. What do these 270 heads do? This notebook looks at all of them at once
# (the explorer), puts numbers on them (head scores), and then asks a famous question: what does *it* refer to in *The
# chicken didn't cross the road because it was too tired / wide*?
#
# The model is needed once on this machine: `interp fetch smollm2` downloads it.

# %%
import numpy as np
import torch

from interp import HookedTransformer
from interp.heads import head_scores, head_scores_of, score_table
from interp.interventions import Zero
from interp.plot import attention, figures
from interp.text import repeated_tokens

torch.set_grad_enabled(False)

model = HookedTransformer.from_pretrained("smollm2-135m-instruct")
cfg = model.cfg
print(f"{cfg.n_layers} layers, {cfg.n_heads} heads, {cfg.n_key_value_heads} of keys and values, d_model {cfg.d_model}")

# %% [markdown]
# ## All heads at once
#
# One run, and the explorer of its cache. Hover over a head to look at it, click to keep it; hover over a token to see
# what it attends to. The badges are scores of these heads on this very text: how much a head attends to the token
# before (previous), to what followed the token the last time (induction), to the first token.

# %%
TEXT = "Mr and Mrs Dursley, of number four, were proud to say that Mr and Mrs Dursley"
_, cache = model.run_with_cache(TEXT)
here = head_scores_of(cache, TEXT, scores=["induction", "previous_token", "first_token"])
badges = {name: here[name] for name in ("induction", "previous_token", "first_token")}
explorer = attention(cache, TEXT, scores=badges, sort_by="induction")
assert explorer.pooled == []
explorer

# %% [markdown]
# ## Head scores
#
# Scores on one text depend on the text. `head_scores` takes random tokens in which a segment comes twice, its length,
# place and distance drawn anew for every prompt: what is high here does not depend on meaning, nor on a fixed distance
# (notebook 7 shows what fixed distances do). A standard error over the prompts comes along.

# %%
scores = head_scores(model, n_prompts=12, progress=False)
kinds = ["induction", "previous_token", "duplicate_token"]
for kind in kinds:
    print(score_table(scores, kind, top_k=4)[[kind, f"{kind}_se"]].round(3).to_string(), "\n")
top = {kind: score_table(scores, kind, top_k=5) for kind in kinds}
assert top["induction"].index[0] == "L18H6" and {"L17H3", "L17H4"} <= set(top["induction"].index)
assert top["previous_token"].index[0] == "L16H0" and top["duplicate_token"].index[0] == "L14H3"
assert float(scores["induction"][18, 6]) > 0.85 and float(scores["previous_token"][16, 0]) > 0.8

# %% [markdown]
# The induction heads sit together, in layers 17 to 23. Heads that attend to the previous token are found from layer 1
# on: whatever feeds the induction heads has to come before them.

# %%
induction = scores["induction"]
strong = np.argwhere(induction.values > 0.4)
print("induction above .4:", ", ".join(f"L{layer}H{head}" for layer, head in strong))
assert strong[:, 0].min() >= 16 and strong[:, 0].max() <= 24 and (scores["previous_token"].values[:14] > 0.7).any()
figures.head_scores(scores, "induction", title="Induction score (prefix matching) on random repeats")

# %% [markdown]
# ## An induction head at work
#
# L18H6 on the text above. At the second *Mr and Mrs Dursley* every token looks at what came after its first occurrence;
# elsewhere the head rests on the first token.

# %%
words = model.to_str_tokens(TEXT)
pattern = cache["pattern", 18][0, 6]
first_and, second_and = [i for i, word in enumerate(words) if word == " and"]
print(f"from the second ' and' to the first ' Mrs': {float(pattern[second_and, first_and + 1]):.2f}")
assert words[first_and + 1] == " Mrs" and pattern[second_and, first_and + 1] > 0.3
explorer.figure(18, 6)

# %% [markdown]
# Do these heads matter? On random repeats, the loss at tokens that can be copied, with heads switched off (`z` set to
# zero). Other tokens cannot be foreseen, so their loss is what copying has to beat. Without the 13 strongest induction
# heads four fifths of that advantage are gone. The control is 13 other heads, as many from each layer, drawn three
# times: little changes. But one head that is no induction head takes half of the advantage alone: L16H0, the strongest
# previous-token head. Notebook 6 shows why.

# %%
tokens = repeated_tokens(model.cfg, model.tokenizer, n_prompts=6, seed=1)
seen = (tokens[:, :, None] == tokens[:, None, :]).tril(-1).any(-1)
copied = seen[:, 1:] & seen[:, :-1]  # the token and the one before it have both come before


def copy_loss(heads):
    """Mean loss at copied tokens and at the others, in nats, without these heads."""
    with model.intervene(*(Zero(site="z", layer=layer, head=head) for layer, head in heads)):
        losses = model(tokens, return_type="loss", loss_per_token=True)
    return float(losses[copied].mean()), float(losses[~copied].mean())


by_score = sorted(np.ndindex(30, 9), key=lambda at: -float(induction[at]))
generator, inductive = np.random.default_rng(0), by_score[:13]


def others():
    """As many other heads, drawn from the same layers."""
    drawn = []
    for layer in {layer for layer, _ in inductive}:
        free = [(layer, head) for head in range(9) if (layer, head) not in inductive]
        n = 9 - len(free)
        drawn += [free[i] for i in generator.choice(len(free), n, replace=False)]
    return drawn


runs = {"all heads": [], "without 13 induction heads": inductive, "without L16H0": [(16, 0)]}
runs |= {f"without 13 others, draw {i}": others() for i in (1, 2, 3)}
losses = {name: copy_loss(heads) for name, heads in runs.items()}
advantage = {name: elsewhere - at_copies for name, (at_copies, elsewhere) in losses.items()}
for name, (at_copies, elsewhere) in losses.items():
    print(f"{name:28} copied tokens {at_copies:5.2f}   other tokens {elsewhere:5.2f}   apart {advantage[name]:5.2f}")
whole, without, previous, *controls = (advantage[name] / advantage["all heads"] for name in runs)
print(f"left of the advantage: {without:.2f}, without L16H0 {previous:.2f}, controls {min(controls):.2f} and more")
assert without < 0.3 and previous < 0.6 and min(controls) > 0.8

# %% [markdown]
# ## Sinks
#
# Across all heads, some 40 % of all attention goes to the first token, although it is a random one (this model is run
# without a beginning-of-text token).

# %%
sink = scores["first_token"]
print(f"mean attention to the first token {float(sink.mean()):.2f}; above .5 in {int((sink > 0.5).sum())} of 270 heads")
assert 0.3 < float(sink.mean()) < 0.55 and int((sink > 0.5).sum()) > 60
figures.head_scores(scores, "first_token", title="Attention to the first token, on random repeats")

# %% [markdown]
# How does a head know the first token? In most layers the residual stream is far longer there than at other tokens (Sun
# et al. 2024, "Massive Activations in Large Language Models"). Length alone is lost in the norm, but nearly all of it
# lies in one direction, coordinate 507, which keys can find. The values that heads make of it are small, so that
# resting there adds little.
#
# The model makes this stream twice. The MLPs of layers 1 and 2 write it and those of layers 8 to 10 take it away; the
# MLP of layer 11 writes it again, some 25,000 long, and those of layers 28 and 29 take most of it away. In between, in
# layers 10 and 11, the first token gets far less attention.

# %%
layers = np.arange(30)
norms = torch.stack([cache["resid_pre", layer][0].norm(dim=-1) for layer in range(30)])
value_norms = torch.stack([cache["v", layer][0].norm(dim=-1).mean(-1) for layer in range(30)])
stream_ratio, value_ratio = (of[:, 0] / of[:, 1:].mean(-1) for of in (norms, value_norms))
resting = torch.stack([cache["pattern", layer][0, :, 1:, 0].mean() for layer in range(30)])
print("layer   length of stream   of values (others: 1)   attention to it")
for i in (1, 3, 8, 10, 11, 12, 25):
    print(f"{i:5} {float(stream_ratio[i]):18.1f} {float(value_ratio[i]):11.2f} {float(resting[i]):29.2f}")
ordinary, long = [0, 1, 10, 11], [*range(3, 10), *range(12, 30)]

first = torch.stack([cache["mlp_out", layer][0, 0] for layer in range(30)])  # what each MLP writes at the first token
written = {layer: round(float(first[layer, 507])) for layer in range(30) if first[layer, 507].abs() > 50}
print("\nMLPs that write more than 50 into coordinate 507 of the first token:", written)
streams = {layer: cache["resid_post", layer][0, 0] for layer in (2, 11)}
for layer, stream in streams.items():
    share = float(stream[507] ** 2 / stream.square().sum())
    print(f"after layer {layer}: length {float(stream.norm()):,.0f}, {share:.0%} of its square in coordinate 507")
    assert stream.abs().argmax() == 507 and share > 0.85
print(f"the MLP of layer 11 writes a vector of length {float(first[11].norm()):,.0f}")
assert 20_000 < first[11].norm() < 30_000 and set(written) >= {1, 2, 8, 9, 10, 11, 28, 29}
assert all(written[layer] > 0 for layer in (1, 2, 11)) and all(written[layer] < 0 for layer in (8, 9, 10, 28, 29))
assert stream_ratio[ordinary].max() < 2 and stream_ratio[long].min() > 4
assert resting[ordinary].max() < 0.3 and resting[long].min() > 0.4 and value_ratio[long].max() < 0.5
lines = {"attention to the first token": (layers, resting), "length of its values / others": (layers, value_ratio)}
figures.curves(lines, title="The first token, layer by layer", x="layer", y="", limits=(0, 1.8))

# %% [markdown]
# Cause and effect: take away what single MLPs write at the first token. Without MLP 1 alone, or MLP 2 alone, sinks stay
# in layers 3 to 9 (without MLP 1 weaker ones): what the other one writes is enough. Without both there are none, until
# MLP 11 makes its own. Without MLP 11 the sinks of the layers after 12 are mostly gone; in layer 12 itself they stay,
# so this stream is not the only thing that heads can rest on.


# %%
def remaining(*layers):
    """Attention to the first token, layer by layer, without what the MLPs of these layers write there."""
    with model.intervene(*(Zero(site="mlp_out", layer=layer, pos=0) for layer in layers)):
        _, run = model.run_with_cache(TEXT, names_filter="blocks.*.attn.hook_pattern")
    return torch.stack([run["pattern", layer][0, :, 1:, 0].mean() for layer in range(30)])


lines = {"as it is": resting, "without MLP 1": remaining(1), "without MLP 2": remaining(2)}
lines |= {"without MLPs 1 and 2": remaining(1, 2), "without MLP 11": remaining(11)}
print(f"{'attention to the first token':30} layers 3-9 (least, most)   layer 12   layers 13-29 (mean)")
for name, line in lines.items():
    early = f"{float(line[3:10].min()):.2f} - {float(line[3:10].max()):.2f}"
    print(f"{name:30} {early:>24} {float(line[12]):10.2f} {float(line[13:].mean()):21.2f}")
assert lines["without MLP 2"][3:10].min() > 0.4 and lines["without MLP 1"][3:10].min() > 0.15
assert lines["without MLPs 1 and 2"][3:10].max() < 0.05 and lines["without MLPs 1 and 2"][13:].mean() > 0.5
assert torch.allclose(lines["without MLP 11"][:12], resting[:12], atol=1e-5)
assert lines["without MLP 11"][13:].mean() < resting[13:].mean() / 2.5 and lines["without MLP 11"][12] > 0.4
shown = ("as it is", "without MLPs 1 and 2", "without MLP 11")
figures.curves(
    {name: (layers, lines[name]) for name in shown},
    title="Attention to the first token, MLPs ablated there",
    x="layer",
    y="",
    limits=(0, 1),
)

# %% [markdown]
# It is the *place*, not the word: the same word later in the text is no sink. (Attention from the last token, mean of
# all heads.)

# %%
_, twice = model.run_with_cache("Mr Smith met Mr Jones")
at = [i for i, word in enumerate(model.to_str_tokens("Mr Smith met Mr Jones")) if word.strip() == "Mr"]
attended = torch.stack([twice["pattern", layer][0, :, -1] for layer in range(30)]).mean((0, 1))
print({f"position {i}": round(float(attended[i]), 2) for i in at})
assert attended[at[0]] > 3 * attended[at[1]]

# %% [markdown]
# ## What does *it* refer to?
#
# *The chicken didn't cross the road because it was too tired* - the chicken. *... too wide* - the road. A picture of a
# head that attends from *it* to *chicken* in one sentence and to *road* in the other is in many introductions. Such a
# picture is impossible here. The model is causal: at *it* the last word has not been read, so *it* attends to the same
# places in both.

# %%
SENTENCE = "The chicken didn't cross the road because it was too"
pair = [f"{SENTENCE} {word}" for word in ("tired", "wide")]
_, both = model.run_with_cache(pair)
words = model.to_str_tokens(pair[0])
chicken, road, it = (words.index(word) for word in (" chicken", " road", " it"))
patterns = torch.stack([both["pattern", layer] for layer in range(30)])  # [layer, sentence, head, query, key]
print(f"largest difference at 'it': {float((patterns[:, 0, :, it] - patterns[:, 1, :, it]).abs().max())}")
assert torch.allclose(patterns[:, 0, :, it], patterns[:, 1, :, it], atol=1e-5)

# %% [markdown]
# What *it* does attend to, in both: some heads look at *chicken*, others at *road*. The most decided head is L13H8. But
# this head looks at *chicken* from every later word, not only from *it*: one row of a pattern is not yet an
# explanation.

# %%
attends = {name: patterns[:, 0, :, it, key] for name, key in (("chicken", chicken), ("road", road))}
for name, values in attends.items():
    first = values.flatten().argsort(descending=True)[:4].tolist()
    print(f"it -> {name:8}", {f"L{i // 9}H{i % 9}": round(float(values.flatten()[i]), 2) for i in first})
assert int(attends["chicken"].argmax()) == 13 * 9 + 8 and attends["chicken"].max() > 0.7
assert attends["chicken"].max() > 1.5 * attends["road"].max()
least = float(patterns[13, 0, 8, chicken + 1 :, chicken].min())
print(f"L13H8 -> chicken, least of all words after it: {least:.2f}")
assert least > 0.2
figures.pattern(patterns[13, 0, 8], words, title="L13H8: 'it' attends to 'chicken', and so does the rest")

# %% [markdown]
# The sentences part at their last word. The explorer opens on both runs side by side with their difference, in the head
# that differs most. Here the badge is how far the last word's attention to *road* differs.

# %%
last = len(words) - 1
to_road = patterns[:, 1, :, last, road] - patterns[:, 0, :, last, road]
second = both.slice(batch=1)
attention(
    both.slice(batch=0),
    words,
    scores={"wide to road": to_road.clamp(min=0)},
    patched=second,
    patched_tokens=model.to_str_tokens(pair[1]),
    run_names=("tired", "wide"),
    run="side by side",
)

# %% [markdown]
# A few heads see it: from *wide* they attend to *road* much more than from *tired*. In this pair the adjective finds
# the noun that it can describe.

# %%
first = to_road.flatten().argsort(descending=True)[:4].tolist()
for i in first:
    layer, head = divmod(i, 9)
    tired, wide = patterns[layer, :, head, last, road].tolist()
    print(f"L{layer}H{head}: tired -> road {tired:.2f}, wide -> road {wide:.2f}")
assert {divmod(i, 9) for i in first[:2]} == {(4, 2), (9, 7)}
assert all(to_road.flatten()[i] > 0.15 for i in first[:2])

# %% [markdown]
# Does the model *understand* it? Ask, with five adjectives that fit the chicken and five that fit the road. The answer
# is always the chicken, by far. On average the odds move the right way, by a nat or so, and never far enough. That
# attention connects two words does not say that the model draws the conclusion.

# %%
FIT = {
    "chicken": ["tired", "hungry", "scared", "lazy", "young"],
    "road": ["wide", "long", "busy", "dangerous", "narrow"],
}
ids = [model.to_single_token(f" {noun}") for noun in FIT]
odds = {}
for noun, adjectives in FIT.items():
    for adjective in adjectives:
        question = f"{SENTENCE} {adjective}. What was too {adjective}? It was the"
        log_probs = model(question)[0, -1].log_softmax(-1)[ids]
        odds[adjective] = float(log_probs[0] - log_probs[1])
        print(
            f"{adjective:10} (fits {noun:7}) chicken {float(log_probs[0].exp()):.2f}, log odds {odds[adjective]:+.2f}"
        )
means = {noun: np.mean([odds[adjective] for adjective in adjectives]) for noun, adjectives in FIT.items()}
print({noun: round(float(mean), 2) for noun, mean in means.items()})
assert min(odds.values()) > 3 and means["chicken"] - means["road"] > 0.5
