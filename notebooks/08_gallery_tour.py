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
# # A tour of the gallery
#
# Some two dozen transformers whose weights nobody trained. Each is declared in a few lines: which spaces the residual
# stream has, which head matches what and copies what, which MLP looks up what. The compiler writes the weights, and the
# declaration says exactly which part feeds which. That makes them a touchstone: the second half of this notebook asks
# which of these known edges the analyses of notebooks 4 to 6 find.

# %%
import inspect
import itertools

import numpy as np
import pandas as pd
import torch

from circuits.gallery import entry
from circuits.language import Head
from interp.heads import head_scores
from interp.interventions import Zero
from interp.metrics import LogitDifference
from interp.patching import path_sweep, sweep
from interp.plot import figures
from interp.weights import composition_scores, copying_scores

torch.set_grad_enabled(False)

TOUR = [
    "addition_2", "adjectives", "backoff", "count", "duplicate_token", "dyck1", "dyck2", "fuzzy_geometric",
    "fuzzy_induction", "histogram", "histogram_bidirectional", "induction", "induction_latest", "induction_pointer",
    "induction_uniform", "ioi", "previous_token", "reverse", "rhyme", "skip_0", "skip_1", "skip_2", "sort", "successor",
    "virtual_head",
]  # fmt: skip
gallery = {name: entry(name) for name in TOUR}
circuits = {name: entry.build() for name, entry in gallery.items()}
models = {name: circuit.compile() for name, circuit in circuits.items()}


def some_inputs(name, most=200):
    """Some of the texts that the gallery checks a circuit on, evenly spaced."""
    every = list(gallery[name].inputs())
    return every[:: max(1, len(every) // most)]


# %% [markdown]
# ## All of them, checked
#
# Three things have to agree on every input: the compiled model, a symbolic interpreter of the declaration, and a plain
# Python function that says what should come out. Here on some 200 inputs each; `interp circuits verify --all` runs them
# all. The margin is the smallest distance to another prediction, in logits (0 where the answer is a tie between words,
# or a whole distribution); `!` starts the texts and is where a head rests that finds nothing.

# %%
rows = {}
for name, one in gallery.items():
    report = circuits[name].verify(some_inputs(name), one.reference, model=models[name], progress=False)
    assert report.ok and report.pattern_error < 1e-5, name
    n_heads = sum(isinstance(part, Head) for part in circuits[name].parts)
    rows[name] = {
        "layers": models[name].cfg.n_layers,
        "heads": n_heads,
        "MLP parts": len(circuits[name].parts) - n_heads,
        "d_model": models[name].cfg.d_model,
        "inputs": report.n_inputs,
        "right": f"{report.accuracy:.0%}",
        "margin": round(report.margin, 3),
    }
print(pd.DataFrame.from_dict(rows, orient="index").to_string())


# %% [markdown]
# The tour shows of each circuit its declaration, what it predicts for one text (`-` for nothing), and its edges. In the
# graphs edges enter a head at the left (queries), in the middle (keys) or at the right (values).


# %%
def declaration(name):
    """The lines of a circuit's file that declare it."""
    first, *lines = inspect.getsource(gallery[name].module.build).splitlines()
    return "\n".join([first, *(line for line in lines if not line.strip().startswith('"""'))])


def tour(name, text, draw=True):
    """Print a circuit's declaration, a text with what is predicted at each position, and its edges; draw the graph."""
    circuit, model = circuits[name], models[name]
    print(declaration(name), "\n")
    for argument, value in gallery[name].arguments.items():
        print(f"{argument} = {value}\n")
    words, said = circuit.vocabulary.split(text), [word or "-" for word in model.predict(text)]
    wanted = gallery[name].reference(text)
    if all(one is None or isinstance(one, str) for one in wanted):
        assert said == [word or "-" for word in wanted]
    for line in (words, said):
        print(" ".join(word.ljust(max(len(a), len(b))) for word, a, b in zip(line, words, said, strict=True)))
    if draw:
        return figures.circuit(circuit, title=name)
    reads = {}
    for _, _, kind, parts in circuit.edges().edges(keys=True, data="parts"):
        for writer, reader in parts:
            reads.setdefault(reader, {}).setdefault(writer, []).append(kind)
    for reader, writers in reads.items():
        print(f"{reader} reads", ", ".join(f"{writer} ({' '.join(kinds)})" for writer, kinds in writers.items()))
    return None


# %% [markdown]
# ## One head
#
# Attend one position back, copy the word there.

# %%
tour("previous_token", "!abcde", draw=False)

# %% [markdown]
# Attend to the same word, but not to oneself.

# %%
tour("duplicate_token", "!abcab", draw=False)

# %% [markdown]
# OV circuits that permute instead of copying: the next digit, the word that rhymes. Their copying score is 0.

# %%
tour("successor", "!70x3", draw=False)

# %%
tour("rhyme", "<s> the old saw cat under the a hat and a the sea saw a old tree", draw=False)
for name in ("successor", "rhyme"):
    assert abs(float(copying_scores(models[name])[0, 0])) < 1e-6

# %% [markdown]
# A head that spreads: a noun attends to all adjectives that fit it, and becomes their mean.

# %%
tour("adjectives", "<s> a fluffy blue creature roamed the verdant forest", draw=False)
creature = models["adjectives"]("<s> a fluffy blue creature roamed the verdant forest")[0, 4]
shares = {word: round(float(creature[i]), 2) for i, word in enumerate(circuits["adjectives"].vocabulary.words)}
print("\ncreature:", {word: share for word, share in shares.items() if share > 0.01})
assert shares["fluffy"] == shares["blue"] == 0.5

# %% [markdown]
# ## Counting
#
# Attention cannot count: its weights sum to 1. But a head that spreads evenly over w matches and the start of the text
# leaves the share 1 / (w + 1) there, and an MLP turns that number into w. `c.count` declares both.

# %%
tour("histogram", "!abacab")

# %%
tour("histogram_bidirectional", "!abacab", draw=False)

# %%
tour("count", "!bacaea", draw=False)

# %% [markdown]
# ## Induction, in several ways
#
# By K-composition: the key knows the word before. Where several match, the latest.

# %%
tour("induction_latest", "!abcabd")

# %% [markdown]
# The same behaviour by Q-composition: the first head finds the earlier occurrence and writes a pointer to it, the
# second moves one step on. The second head has the same pattern in both circuits; what feeds it differs.

# %%
tour("induction_pointer", "!abcabd")

# %% [markdown]
# All matches alike instead of the latest: the model predicts how often each word followed so far.

# %%
tour("induction_uniform", "!abacab", draw=False)
after_a = models["induction_uniform"]("!abacaa")[0, 5]
print("\nafter a in !abaca:", {word: round(float(one), 2) for word, one in zip("abcde", after_a[1:], strict=True)})
assert abs(float(after_a[2]) - 0.5) < 0.01 and abs(float(after_a[3]) - 0.5) < 0.01

# %% [markdown]
# Match the word one back instead of the current one (after `a ?` comes what came after `a ?`). Both sides of the match
# are written by heads now.

# %%
tour("skip_1", "!abcadc", draw=False)

# %%
tour("skip_0", "!abcabd", draw=False)

# %%
tour("skip_2", "!abcade", draw=False)

# %% [markdown]
# Similar words match too, if no equal one does: by classes, or by dense vectors whose dot products say how similar they
# are.

# %%
tour("fuzzy_induction", "!asbeda", draw=False)

# %%
tour("fuzzy_geometric", "!asbeda", draw=False)

# %% [markdown]
# Two words of context if they came before, else one.

# %%
tour("backoff", "!abcbab", draw=False)

# %% [markdown]
# The two-layer construction taught in lectures on transformers (after Elhage et al. 2021, "A Mathematical Framework for
# Transformer Circuits", and Olsson et al. 2022, "In-context Learning and Induction Heads") is in the gallery, too. Its
# declaration, `lecture_circuit`, is in `circuits/gallery/induction.py`; notebook 2 takes it apart and reproduces the
# table of scores that such a lecture shows.

# %%
tour("induction", "!abacb", draw=False)

# %% [markdown]
# ## A virtual head
#
# Two heads in a row, the second reading the first's output as its *value*: one head two positions back (V-composition).

# %%
tour("virtual_head", "!abcde")

# %% [markdown]
# ## Indirect object identification
#
# What Wang et al. 2022 found in GPT-2, and notebook 5 in SmolLM2, in its simplest form: three heads.

# %%
IOI = "<s> When Mary and John went to the store John gave a drink to"
tour("ioi", IOI)

# %% [markdown]
# ## Algorithms
#
# Balanced parentheses: (opened - closed) / length is an average, so attention can take it.

# %%
tour("dyck1", "!()(()))")

# %% [markdown]
# Two kinds of brackets: each closing one predicts the opening one that it closes.

# %%
tour("dyck2", "!([()])", draw=False)

# %% [markdown]
# Sorting and reversing take three layers; they see the whole text (bidirectional).

# %%
tour("sort", "!dbeab")

# %%
tour("reverse", "!abcde")

# %% [markdown]
# Addition: all digits of the sum at once. One head finds where the carry comes from.

# %%
tour("addition_2", "!27+85")

# %% [markdown]
# ## Composition scores find every edge between heads
#
# From the weights alone: the score of a pair of heads is above 0 where the declaration has an edge of that kind, and 0
# everywhere else. There is no exception in any of these circuits.


# %%
def known_edges(name):
    """(writer, reader) of every declared edge: L0H0, L1H0.q and so on; "embed" is tokens and positions together."""
    edges = circuits[name].edges().edges(data="name")
    return {tuple(word.split(" -> ")) for _, _, word in edges}


pairs = edges_of_heads = 0
for name, model in models.items():
    if model.cfg.n_layers == 1:
        continue
    scores = composition_scores(model, progress=False)
    heads = [(one.layer, one.index) for one in model.report.heads.values()]
    found = set()
    for kind, (a, b), (c, d) in itertools.product("QKV", heads, heads):
        if a < c:
            pairs += 1
            if float(scores.sel(kind=kind)[a, b, c, d]) > 1e-6:
                found.add((f"L{a}H{b}", f"L{c}H{d}.{kind.lower()}"))
    declared = {edge for edge in known_edges(name) if "H" in edge[0] and "H" in edge[1]}
    edges_of_heads += len(declared)
    assert found == declared, name
print(f"{pairs} kinds and pairs of heads in different layers, {edges_of_heads} of them edges: all found, none invented")

# %% [markdown]
# ## Head scores say what a head looks at, not how
#
# On some 64 inputs each. Heads whose job is the previous or the same token score 1, and so do the second heads of both
# induction circuits, whatever feeds them: the two mechanisms cannot be told apart here (composition tells them apart).
# A head that seeks by another rule, such as the induction head of `skip_1`, gets no high score of any kind.

# %%
KINDS = ["previous_token", "duplicate_token", "induction", "copying"]


def whole_texts(name, most):
    """Inputs that fill the context, since analyses want texts of one length."""
    n = models[name].cfg.n_ctx
    whole = [text for text in some_inputs(name, most) if len(circuits[name].vocabulary.split(text)) == n]
    return whole or some_inputs(name, most)


seen = {}
for name in (
    "previous_token",
    "duplicate_token",
    "induction_latest",
    "induction_pointer",
    "skip_1",
    "backoff",
    "rhyme",
):
    scores = head_scores(models[name], whole_texts(name, 64), progress=False)
    for head, one in models[name].report.heads.items():
        seen[f"{name}: {head}"] = {kind: float(scores[kind][one.layer, one.index]) for kind in KINDS}
assert seen["induction_latest: previous"]["previous_token"] > 0.99
assert seen["duplicate_token: duplicate"]["duplicate_token"] > 0.99
assert min(seen[f"induction_{one}: induction"]["induction"] for one in ("latest", "pointer")) > 0.99
assert max(seen["skip_1: induction"][kind] for kind in KINDS[:3]) < 0.3 and abs(seen["rhyme: rhyme"]["copying"]) < 1e-6
values = np.array([list(row.values()) for row in seen.values()])
figures.heatmap(values, list(seen), KINDS, title="Scores of heads with known jobs (blank: undefined)", value="score")

# %% [markdown]
# ## Path patching finds edges that carry something
#
# For every writer and every input of a later part: let only that edge carry something else, and see whether the logits
# change. Twice: once with what another text would have written, once with zero.


# %%
def found_edges(name):
    """Edges whose patching changes a logit by more than .001: with another text's activations, and with zeros."""
    model, declared = models[name], known_edges(name)
    clean = circuits[name].tokens(whole_texts(name, 48))
    base = model(clean)

    def change(logits):
        return (logits - base).abs().amax((1, 2))

    parts = sorted(circuits[name].edges().nodes)
    inputs = [part + end for part in parts if "H" in part for end in (".q", ".k", ".v")]
    inputs += [part for part in parts if "mlp" in part or part == "logits"]
    found = []
    for other in (clean.roll(1, 0), Zero()):
        edges = set()
        for reader in inputs:
            senders = [part for part in parts if part != "logits"]
            options = {"mlps": "frozen", "direction": "noising", "progress": False}
            effect = path_sweep(model, other, clean, change, reader, senders, **options)
            edges |= {(str(s), reader) for s, v in zip(effect.component.values, effect.values, strict=True) if v > 1e-3}
        found.append(edges)
    return declared, *found


results = {name: found_edges(name) for name in models}
rows = {}
for name, (declared, swapped, zeroed) in results.items():
    rows[name] = {
        "edges": len(declared),
        "by another text": len(declared & swapped),
        "by zero": len(declared & zeroed),
        "by either": len(declared & (swapped | zeroed)),
        "invented": len((swapped | zeroed) - declared),
    }
table = pd.DataFrame.from_dict(rows, orient="index")
table.loc["all"] = totals = table.sum()
print(table.to_string())
assert (
    totals["invented"] == 0
    and totals["by either"] > 0.8 * totals["edges"]
    and totals["by zero"] > totals["by another text"]
)

# %% [markdown]
# Nothing is invented, and what is missed has reasons. Another text changes nothing on edges that carry what both texts
# have in common: the start, where heads rest; in `ioi` the place of the repeated name; in `reverse`, with texts of one
# length, the length. Zero takes a token and its position away together, and finds all edges but five. In `ioi` one key
# reads the embedding, but no answer depends on what it reads there. In `reverse` the share of the start is not missed:
# 0 instead of 1/7 is still rounded to the length of these texts, six. Nor is it missed that its head matches all words
# and the start alike: a head that matches nothing spreads over all of them, too.

# %%
for name in ("induction_latest", "ioi", "reverse"):
    declared, swapped, zeroed = results[name]
    for what, edges in (("another text", swapped), ("zero", zeroed)):
        missed = ", ".join(f"{writer} -> {reader}" for writer, reader in sorted(declared - edges))
        print(f"{name:17} missed with {what:13} {missed or 'nothing'}")
missed = {name: declared - zeroed for name, (declared, _, zeroed) in results.items()}
elsewhere = {name for name, edges in missed.items() if any(w != "embed" or r[-1] not in "qk" for w, r in edges)}
print("edges from the embedding to queries or keys are all that zero misses, except in:", *elsewhere)
assert elsewhere == {"reverse"}

# %% [markdown]
# ## Patching a known circuit: where is IOI decided?
#
# The sweep of notebook 5, on the circuit by hand: from the repeated name to the last word by one head, and into the
# answer by the next. This is what a clean result looks like. In SmolLM2 the stream's effect also moves from the
# repeated name to the last word, but over several layers and by several heads.

# %%
model = models["ioi"]
corrupted = IOI.replace("store John", "store Mary")
metric = LogitDifference("Mary", "John")
stream = sweep(model, corrupted, IOI, metric, "resid_pre", normalize=True, progress=False)
heads = sweep(model, corrupted, IOI, metric, "z", ("layer", "pos"), normalize=True, progress=False)
S2, END = 9, 13
assert np.allclose(stream[:, S2], [1, 1, 0], atol=1e-3) and np.allclose(stream[:, END], [0, 0, 1], atol=1e-3)
assert np.allclose([heads[0, S2], heads[1, END], heads[2, END]], 1, atol=1e-3)
figures.sweep(heads)

# %% [markdown]
# ## Every head is needed
#
# Switch off one head at a time, in every circuit: none stays right everywhere.

# %%
accuracy = {}
for name, model in models.items():
    for head, one in model.report.heads.items():
        with model.intervene(Zero(site="z", layer=one.layer, head=one.index)):
            report = circuits[name].verify(some_inputs(name), gallery[name].reference, model=model, progress=False)
        accuracy[f"{name}: {head}"] = report.accuracy
worst = sorted(accuracy.items(), key=lambda item: -item[1])[:3]
print(
    f"{len(accuracy)} heads switched off one by one; the least harm:", {head: round(value, 2) for head, value in worst}
)
assert max(accuracy.values()) < 1
