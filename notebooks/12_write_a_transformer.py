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
# # Write a transformer
#
# Notebook 2 built one circuit by hand, notebook 8 toured two dozen. Here you write your own: first in two lines, then
# with numbers, then out of other programs. At the end circuits are hidden in larger models, among noise and heads
# that do something else, and the methods of notebook 9 are asked to find them. We know the answer, so we see what they
# see, and what they miss.

# %%
import math

import numpy as np
import pandas as pd
import torch

from circuits import Circuit, copy, match, shift
from circuits.benchmark import make_task
from circuits.compiler import Distract, Noise
from circuits.library import histogram, reverse, sort
from interp import ConfigError
from interp.discovery import auroc, edge_scores
from interp.plot import figures

torch.set_grad_enabled(False)


def show(model, text, heads, title):
    """The patterns of some heads, by their declared names."""
    _, cache = model.run_with_cache(text)
    places = [model.nodes[name] for name in heads]
    numbers = [tuple(map(int, place[1:].split("H"))) for place in places]
    patterns = torch.stack([cache["pattern", layer][0, head] for layer, head in numbers])
    names = [f"{place}: {name}" for place, name in zip(places, heads, strict=True)]
    return figures.patterns(
        patterns, model.to_str_tokens(text), names=names, title=title, attention_dir=model.cfg.attention_dir
    )


# %% [markdown]
# ## Two lines
#
# A circuit has words, a longest text and, best, a word that every text starts with: a head that finds nothing rests
# there. `match` says which keys a head attends to, `copy` says what it writes. Which layer a part goes into follows
# from what it reads.

# %%
c = Circuit("!abcd", n_ctx=8, bos="!")
c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))
print(c.compile().predict("!abacbd"))

# %% [markdown]
# Written into a space instead, the previous word is what a second head can look for: two more lines make the induction
# circuit. `verify` runs all texts of five words through the compiled model, and through an interpreter that knows
# neither softmax nor weights; `ok` means that predictions, logits and patterns agree.

# %%
c = Circuit("!abcd", n_ctx=8, bos="!")
prev = c.space("prev", c.tok)
c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
c.head("induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties="latest")
model = c.compile()
print(model.predict("!abacbab"))
print(c.verify(length=5, model=model, progress=False))

# %%
show(model, "!abacbab", ["previous", "induction"], "Where the two heads attend")

# %% [markdown]
# The declaration says exactly which part feeds which. Edges enter a head at the left (Q), in the middle (K) and at the
# right (V): this is K-composition.

# %%
figures.circuit(model, title="What feeds what")

# %% [markdown]
# ## Counts, tables, and a second answer
#
# `count` is a head, a share and neurons in one call, and gives a space of numbers as labels. A table looks labels up;
# `otherwise` is what it writes where no entry fires, the start included. A *readout* is an answer of another kind than
# words.

# %%
c = Circuit("!abcd", n_ctx=8, bos="!")
times = c.count("times", qk=match(c.tok, c.tok), up_to=7)
kind = c.readout("kind", ["new", "again", "often"])
c.mlp("kind", times, kind, {1: "new", 2: "again"}, otherwise="often")
c.head("before", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))
model = c.compile()
pd.DataFrame(
    {"word": list("!abacaa"), "kind": model.predict("!abacaa", readout="kind"), "words": model.predict("!abacaa")}
).T.fillna("")

# %% [markdown]
# ## Numbers
#
# Addition modulo a prime, as small transformers come to do it (Nanda et al. 2023, "Progress measures for grokking"):
# every number is embedded as waves, cos(w a) and sin(w a) for a few w; two heads bring those of a and b to the equals
# sign; products of them make cos(w (a + b - c)), which is largest where c is the sum. A product is piecewise linear in
# (a + b) and (a - b), with as many knots as its error needs. A logit below `nothing_below` predicts nothing.

# %%
p, frequencies = 23, (1, 5, 7)
c = Circuit([*map(str, range(p)), "="], n_ctx=3, nothing_below=0.5)
for k in frequencies:
    turn = 2 * math.pi * k / p
    wave = c.embed(f"wave {k}", {str(i): (math.cos(turn * i), math.sin(turn * i)) for i in range(p)})
    a, b = (c.space(f"{name} {k}", ["cos", "sin"]) for name in "ab")
    for place, space in ((0, a), (1, b)):
        at = match(c.pos, c.pos, {2: place})
        c.head(f"waves {k} of {place}", qk=at, ov=copy(wave, space, {0: "cos", 1: "sin"}))
    for x, y, f in (("cos", "cos", math.cos), ("sin", "sin", lambda t: -math.cos(t)), ("sin", "cos", math.sin),
                    ("cos", "sin", math.sin)):  # fmt: skip
        towards = copy(c.one, c.out, [[f(turn * i) for i in range(p)] + [0.0]])
        c.product(f"{x} {y} {k}", a[x], b[y], writes=towards, error=0.02)
model = c.compile()
texts = [f"{i} {j} =" for i in range(p) for j in range(p)]
print(c.verify(texts, lambda text: [..., ..., str(sum(map(int, text.split()[:2])) % p)], model=model, progress=False))
print(f"{model.cfg.n_layers} layer, {model.cfg.n_heads} heads, {model.cfg.d_mlp} neurons, width {model.cfg.d_model}")

# %% [markdown]
# The logits of all answers, lined up at the right one. There alone all waves are at their crest; with more of them the
# margin grows.

# %%
logits = model(model.to_tokens(texts))[:, -1, :p]
lined_up = torch.stack([row.roll(-sum(divmod(n, p)) % p) for n, row in enumerate(logits)]).roll(p // 2, 1).numpy()
offsets = np.arange(p) - p // 2
lines = {"mean over all sums": lined_up.mean(0), "largest": lined_up.max(0), "smallest": lined_up.min(0)}
figures.curves(
    {name: (offsets, line) for name, line in lines.items()},
    title="Logits by distance from the right answer",
    x="answer - (a + b), modulo 23",
    y="logit",
)

# %% [markdown]
# ## Programs out of programs
#
# A circuit can be a Python function that declares its parts. `circuits.library` has those of Tracr, the compiler of
# Lindner et al. (2023): a line each. They compose, and scopes keep their names apart.

# %%
c = Circuit("!abc", n_ctx=7, bos="!", attention_dir="bidirectional")
by_number = c.space("by number", c.tok)
sort(c, keys=histogram(c), values=c.tok, writes=by_number)
reverse(c, values=by_number, writes=c.out)
model = c.compile()
print(model.predict("!abacab"))
print(*(f"layer {part.layer}: {part.name}" for part in c.parts), sep="\n")
show(model, "!abacab", [head.name for head in c.heads], "Where their heads attend")

# %% [markdown]
# ## What cannot be kept is refused
#
# A mean of several words is no word, so that nobody can look it up. Two entries of a table that fire at once would add
# up. Parts that wait for each other have no layer. A space that nobody reads is a mistake more often than not. The
# message names who is concerned, and the way out.


# %%
def mean_looked_up(c):
    seen = c.space("seen", c.tok)
    c.head("mean", ov=copy(c.tok, seen))
    c.mlp("table", seen, c.out, {"a": "b"})


def overlapping_entries(c):
    c.mlp("table", (c.tok, c.pos), c.out, {("a", ...): "a", (..., 2): "b"})


def read_in_a_circle(c):
    here, there = c.space("here", c.tok), c.space("there", c.tok)
    c.head("first", qk=match(here, c.tok), ov=copy(c.tok, there))
    c.head("second", qk=match(there, c.tok), ov=copy(c.tok, here))


def nobody_reads_it(c):
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.space("prev", c.tok)))
    c.direct(copy(c.tok, c.out))


for declare in (mean_looked_up, overlapping_entries, read_in_a_circle, nobody_reads_it):
    c = Circuit("!abc", n_ctx=5, bos="!")
    try:
        declare(c)
        c.compile()
    except ConfigError as error:
        print(f"{declare.__name__}: {error}\n")

# %% [markdown]
# ## A circuit in hiding
#
# Here is the induction circuit again, in a random basis of 64 dimensions. Wherever it leaves room there is noise: in
# the embeddings and in spare heads (and in spare neurons, where there are MLPs). Some heads do something else, and read
# one another. None of it reaches the logits, so the circuit is as exact as before, and its edges are still known.

# %%
c = Circuit("!abcd", n_ctx=8, bos="!")
prev = c.space("prev", c.tok)
c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
c.head("induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties="latest")
hidden = c.compile(d_model=64, n_heads=4, n_layers=3, rotate=0, fill=Noise(0.05, seed=1), distract=Distract(4, seed=2))
print(hidden.report)
print(
    c.verify(length=5, model=hidden, progress=False).ok,
    {name: hidden.nodes[name] for name in ("previous", "induction")},
)

# %%
_, cache = hidden.run_with_cache("!abacbab")
figures.patterns(
    torch.stack([cache["pattern", layer][0] for layer in range(3)]).flatten(0, 1),
    hidden.to_str_tokens("!abacbab"),
    names=[f"L{layer}H{head}" for layer in range(3) for head in range(4)],
    title="All heads of the model; which two are the circuit?",
)

# %% [markdown]
# ## What an analysis sees of it, and what it misses
#
# `circuits.benchmark` makes questions of this kind: a hidden circuit, pairs of prompts, and the true edges
# (`interp circuits benchmark --out folder` writes them as plain files, for any method). Here three circuits of the
# gallery, alone in a random basis (*small*), or in a stream of 128 with six heads a layer (*medium*). *Hard* models
# choose as their declaration does; *soft* ones leave some attention elsewhere, and their neurons are not quite
# saturated, as in trained models. Every method scores all edges by how much the answer suffers when the edge carries
# the other prompt's activations. The AUROC says how well the scores tell true edges from others.

# %%
METHODS = ["exact", "eap", "eap_ig", "combined"]


def scores_of(task):
    """The scores of all edges, by method."""
    asked = task.model, task.corrupted, task.clean, task.pairs.metric
    return {method: edge_scores(*asked, method, probe=0, progress=False) for method in METHODS}


rows = {}
for softness in ("hard", "soft"):
    for size in ("small", "medium"):
        tasks = [make_task(name, size, softness, n_pairs=4) for name in ("induction_latest", "ioi", "dyck1")]
        found = [[auroc(scores, task.edges) for scores in scores_of(task).values()] for task in tasks]
        rows[softness, size] = np.mean(found, axis=0)
pd.DataFrame(rows, index=METHODS).T.round(3)

# %% [markdown]
# Three things to see. One gradient (`eap`) finds little in hard models, where nothing has a slope, and more in soft
# ones, whose edges it ranks well although it takes some of them for small. Several gradients on the way from one prompt
# to the other (`eap_ig`) find nearly what exact patching finds. And the company does not matter: noise and distractors
# reach no logit, so that every method gives them nothing at all.
#
# But even exact patching is not at 1. Edge by edge, on the induction circuit, soft, in its larger model:

# %%
task = make_task("induction_latest", "medium", "soft", n_pairs=4)
scores = scores_of(task)
rows = []
for _, _, about in task.model.edges().edges(data=True):
    writer, reader = about["name"].split(" -> ")
    estimates = {method: float(scores[method].sel(writer=writer, reader=reader)) for method in ("eap", "eap_ig")}
    exact = {f"exact, {ablation}": effects[about["name"]] for ablation, effects in task.effects.items()}
    parts = ", ".join(f"{one} -> {other}" for one, other in about["parts"])
    rows.append({"edge": about["name"], "declared": parts, "through": ", ".join(about["spaces"]), **exact, **estimates})
pd.DataFrame(rows).set_index("edge").round(2)

# %% [markdown]
# The previous-token head knows its neighbour by position alone, through the edges from `embed` to its queries and keys
# (`.q`, `.k`), and so does the preference for the latest match. Both prompts have the same positions: whatever the two
# have in common, patching from one to the other cannot see. With zeros in place of the other prompt (`exact, zero`)
# these edges count as well. And where the path goes through a choice, from `previous` to the keys of `induction`, one
# gradient sees a tenth of what is there: at the clean prompt the head has made up its mind.
