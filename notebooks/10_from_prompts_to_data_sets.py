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
# # From prompts to data sets
#
# One prompt shows that something can happen, a data set how often it does. Here the activations of some hundred
# thousand tokens are *harvested*: kept on disk, a row for every token, at one site of SmolLM2. From them a linear probe
# and a small autoencoder are trained in plain torch; the autoencoder is spliced back into the model, and judged by how
# much of the loss it recovers. At the end the sweep of notebook 5 runs over 200 pairs of prompts instead of six.
#
# All long work is a job: a folder of finished parts. Interrupted, the same cell goes on from what is there, and
# `workers=2` lets two processes share it. All numbers are computed here, in about two minutes of one core. The model is
# needed once on this machine: `interp fetch smollm2` downloads it.

# %%
import ast
import itertools
import math
import random
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from interp import HookedTransformer
from interp.data import PromptPairs, Texts
from interp.harvest import harvest, harvest_size, loss_recovered
from interp.interventions import Apply, Mean, Named, Zero
from interp.patching import sweep_dataset
from interp.plot import figures

torch.manual_seed(0)

gone_at_the_end = tempfile.TemporaryDirectory()
FOLDER = Path(gone_at_the_end.name)  # one of your own, such as Path("layer-3"), stays, and goes on where it was left
model = HookedTransformer.from_pretrained("smollm2-135m-instruct")

# %% [markdown]
# ## A corpus that every machine has
#
# The docstrings of Python's standard library: read out of its files, so that nothing is imported. Those of twenty words
# or more are kept, in a random order that is always the same, and the last ones are set aside for tests.

# %%
OTHERS = {"antigravity", "idlelib", "lib2to3", "test", "this", "tkinter", "turtledemo"}


def docstrings():
    """The docstrings of modules, classes and functions, module by module."""
    for name in sorted(sys.stdlib_module_names - OTHERS):
        spec = None if name.startswith("_") else find_spec(name)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            continue  # written in C, or not on this system
        path = Path(spec.origin)
        for file in sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]:
            if not {"test", "tests"} & set(file.parts):
                for node in ast.walk(ast.parse(file.read_bytes())):
                    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                        yield ast.get_docstring(node) or ""


documents = [text for text in dict.fromkeys(docstrings()) if len(text.split()) >= 20]
random.Random(0).shuffle(documents)
corpus, held_out = documents[:880], documents[-60:]
print(f"{len(documents):,} docstrings; {len(corpus)} to learn from. The first one begins:\n")
print(corpus[0][:300])
assert len(documents) > 1500

# %% [markdown]
# ## Harvest
#
# `texts` become rows of 128 tokens, one text after another with the tokenizer's bos between them. Each run ends at the
# site, here the stream after layer 3. How much will be kept is known before it begins.

# %%
LAYER, N_CTX = 3, 128
SITE = ("resid_post", LAYER)
print(f"{harvest_size(model, SITE, 100_000) / 1e6:.0f} MB for 100,000 tokens in float16")
store = harvest(model, Texts(corpus), SITE, folder=FOLDER / "harvest", n_ctx=N_CTX, progress=False)
stored = store[SITE]
print(f"{len(store):,} tokens: {stored}")
assert len(store) > 60_000

# %% [markdown]
# The rows are memory-mapped: what is read is what is asked for. Where are the largest of them?

# %%
largest = stored.top_examples(lambda rows: rows.norm(dim=-1), top_k=8, context=6)
print(largest)
norms = torch.cat([rows.float().norm(dim=-1) for _, rows in stored.blocks()])
sink = norms > 300
first = store.pos.rows(slice(None)) == 0
print(f"\nmedian norm {norms.median():.0f}; beyond 300: {sink.float().mean():.1%} of the tokens")
print(
    f"of the first tokens of a row {sink[first].float().mean():.0%}, of all others {sink[~first].float().mean():.1%}:"
)
counts = Counter(store.tokenizer.to_str_tokens(store.token.rows(sink & ~first).tolist()))
print(counts.most_common(4))
assert sink[first].all() and sink[~first].float().mean() < 0.05

spread = torch.linalg.eigvalsh(stored.covariance()).flip(0)
print(f"the first principal direction has {float(spread[0] / spread.sum()):.0%} of the variance")
assert spread[0] / spread.sum() > 0.5

# %% [markdown]
# A few tokens have about nine times the norm of all others: the first of every row, and some *the*'s and spaces. These
# are *attention sinks*, at which heads look that have nothing to look at (Xiao et al. 2023; Sun et al. 2024 on their
# size), and they hold most of the variance. A mean or an autoencoder of all tokens would be about them. So they are
# left out below, by their norm.

# %%
SINK = 300.0


def ordinary(x):
    """The rows that are no sinks."""
    return x[x.norm(dim=-1) < SINK]


total, squares, n = torch.zeros(model.cfg.d_model, dtype=torch.float64), 0.0, 0
for _, rows in stored.blocks():
    rows = ordinary(rows.double())
    total, squares, n = total + rows.sum(0), squares + float(rows.square().sum()), n + len(rows)
mean = (total / n).float()
scale = (squares / n - float(mean.double().square().sum())) ** 0.5
print(f"{n:,} ordinary tokens; their distance from the mean is {scale:.1f}")

# %% [markdown]
# ## A probe
#
# Does the stream say whether a token stands inside round brackets? That is not in the token itself: what opened the
# bracket stands before. The label counts brackets along each text. The probe is a logistic regression, trained on the
# store's shuffled batches and tested on texts that it did not see, beside the best guess that knows the token alone.

# %%
ids, text = store.token.rows(slice(None)).long(), store.text.rows(slice(None)).long()
strings = store.tokenizer.to_str_tokens(list(range(model.cfg.d_vocab)))
step = torch.tensor([s.count("(") - s.count(")") for s in strings])[ids]
depth = step.cumsum(0)
start = torch.cat([torch.ones(1, dtype=torch.bool), text.diff() != 0]).nonzero()[:, 0]
depth -= (depth - step)[start][torch.searchsorted(start, torch.arange(len(ids)), right=True) - 1]
inside = (depth > 0).float()
test = text >= text.max() * 0.8
print(f"{inside.mean():.1%} of the tokens are inside brackets")

probe = nn.Linear(model.cfg.d_model, 1)
optimizer = torch.optim.Adam(probe.parameters(), lr=3e-3)
for epoch in range(2):
    for batch in store.batches(1024, seed=epoch):
        used = ~test[batch["row"]]
        read = (batch[stored.name][used].float() - mean) / scale
        loss = nn.functional.binary_cross_entropy_with_logits(probe(read)[:, 0], inside[batch["row"]][used])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

rows = test.nonzero()[:, 0]
with torch.no_grad():
    said = probe((stored.rows(rows).float() - mean) / scale)[:, 0] > 0
often = torch.bincount(ids[~test], 2 * inside[~test] - 1, model.cfg.d_vocab) > 0  # tokens that are inside more often
truth, accuracy = inside[rows] > 0, {}
guesses = {"always outside": torch.zeros_like(said), "the token alone": often[ids[rows]], "the probe": said}
for name, guess in guesses.items():
    accuracy[name] = float((guess == truth).float().mean())
    print(f"{name:16} right on {accuracy[name]:.1%}, finds {guess[truth].float().mean():.0%} of those inside")
assert accuracy["the probe"] > accuracy["the token alone"] > accuracy["always outside"]

# %% [markdown]
# The probe is a direction, and a store ranks its tokens by any direction. Each token is shown with those around it.

# %%
stored.top_examples(probe.weight[0] / scale, top_k=6, context=10)

# %% [markdown]
# ## A small autoencoder
#
# A *top-k* autoencoder (Gao et al. 2024) writes each row as a sum of 32 of 1,024 directions. It is thirty lines of
# torch. Sinks it passes on as they are.

# %%
N_FEATURES, K = 1024, 32


class TopK(nn.Module):
    """Activations as sparse sums: `forward` gives the reconstruction, `encode` the features' activations."""

    def __init__(self, mean, scale, n_features=N_FEATURES, k=K):
        super().__init__()
        self.k = k
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.tensor(scale))
        generator = torch.Generator().manual_seed(0)
        self.W_dec = nn.Parameter(nn.functional.normalize(torch.randn(n_features, len(mean), generator=generator)))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())
        self.b_enc = nn.Parameter(torch.zeros(n_features))

    def encode(self, x):
        before = ((x - self.mean) / self.scale @ self.W_enc + self.b_enc).relu()
        top = before.topk(self.k, dim=-1)
        return torch.zeros_like(before).scatter(-1, top.indices, top.values)

    def forward(self, x):
        made = self.encode(x) @ self.W_dec * self.scale + self.mean
        return torch.where(x.norm(dim=-1, keepdim=True) > SINK, x, made)


autoencoder = TopK(mean, scale)
optimizer = torch.optim.Adam(autoencoder.parameters(), lr=2e-3)
EPOCHS, explained = 2, []
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, EPOCHS * len(store.batches(1024)))
for epoch in range(EPOCHS):
    for batch in store.batches(1024, seed=epoch):
        x = ordinary(batch[stored.name].float())
        loss = (autoencoder(x) - x).square().sum(-1).mean() / scale**2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            autoencoder.W_dec.div_(autoencoder.W_dec.norm(dim=1, keepdim=True))
        explained.append(1 - loss.item())
torch.set_grad_enabled(False)
autoencoder.requires_grad_(False)
print(f"variance explained after {len(explained)} steps: {np.mean(explained[-20:]):.3f}")
assert np.mean(explained[-20:]) > 0.75
figures.curves(
    {"batch": (np.arange(len(explained)), np.array(explained))},
    title="Variance of ordinary tokens that 32 of 1,024 directions explain",
    x="step",
    y="share",
)

# %% [markdown]
# What are its features? Some that are active on few tokens, with their top examples, found in one pass over the store.

# %%
active = torch.zeros(N_FEATURES)
for _, rows in stored.blocks():
    active += (autoencoder.encode(rows.float()) > 0).sum(0)
rate = active / len(store)
rare = ((rate > 0.002) & (rate < 0.02)).nonzero()[:, 0][:5]
print(f"active on: median {rate.median():.2%} of the tokens, of the rarest tenth {rate.quantile(0.1):.2%}")
tops = stored.top_examples_of_each(lambda rows: autoencoder.encode(rows)[:, rare], top_k=6, context=6)
for feature, top in zip(rare.tolist(), tops, strict=True):
    print(f"\nfeature {feature}, active on {rate[feature]:.2%}\n{top}")

# %% [markdown]
# ## Spliced back
#
# `Apply(autoencoder)` lets the model go on with the reconstruction; with `error_of=autoencoder` its error is added
# back, so that the run is the same to the last bit, and edits of features can be made on top of it. How much does the
# reconstruction cost? The loss on texts that were set aside, beside the loss with the site ablated. `Mean(store)`
# writes the mean of all tokens. Two more ablations leave the sinks as they are.

# %%
judged = [row.ids.tolist() for row in itertools.islice(Texts(held_out).rows(model, N_CTX), 8)]


def zeroed(x):
    return torch.where(x.norm(dim=-1, keepdim=True) > SINK, x, 0.0)


def averaged(x):
    return torch.where(x.norm(dim=-1, keepdim=True) > SINK, x, mean)


place = {"site": "resid_post", "layer": LAYER}
spliced = Apply(Named(autoencoder, "top-k autoencoder"), **place)
found = loss_recovered(
    model,
    judged,
    spliced,
    ablations={
        "zero": Zero(),
        "mean": Mean(store),
        "zero, but sinks": Apply(Named(zeroed, "zeroed")),
        "mean, but sinks": Apply(Named(averaged, "averaged")),
    },
    n_ctx=N_CTX,
    folder=FOLDER / "loss",
    progress=False,
)
for run in found.run.values:
    low, high = (float(found[f"loss_ci_{end}"].sel(run=run)) for end in ("low", "high"))
    print(f"loss {run:16} {float(found.loss.sel(run=run)):6.2f} nats a token, 95 % interval {low:.2f} to {high:.2f}")
for name in found.ablation.values:
    low, high = (float(found[f"recovered_ci_{end}"].sel(ablation=name)) for end in ("low", "high"))
    print(f"recovered of {name:16} {float(found.recovered.sel(ablation=name)):.3f}, from {low:.3f} to {high:.3f}")
losses = found.loss.to_series()
assert abs(losses["zero"] - math.log(model.cfg.d_vocab)) < 0.001 and losses["zero, but sinks"] > losses["zero"] + 1
assert losses["as it is"] < losses["intervened"] < losses["as it is"] + 1
assert float(found.recovered.min()) > 0.85

exact = Apply(spliced.fn, error_of=spliced.fn, **place)
with_error = loss_recovered(model, judged[:2], exact, ablations=[], n_ctx=N_CTX).loss
print("with its error term:", with_error.values.tolist())
assert with_error[0] == with_error[1]

# %% [markdown]
# How much is recovered depends on what counts as nothing. With the whole stream at zero it stays zero to the end, for
# this model adds no biases, and all 49,152 tokens are equally likely: log 49,152 = 10.80 nats. With zero everywhere but
# at the sinks the model does much *worse* than that, which makes any reconstruction look good. The mean of the ordinary
# tokens is the mildest ablation, and against it least is recovered. The loss itself is the plainer number: the
# reconstruction costs some tenths of a nat, with a fifth of the variance missing. (The intervals of losses are wide and
# those of fractions narrow, since eight rows of text differ in how hard they are more than in what is recovered.)
#
# ## The sweep of notebook 5, over 200 pairs
#
# *When Mary and John went to the store, John gave a drink to* ... Mary. Six pairs of names said where the answer stands
# in the stream. Here are 200, for the two positions that mattered: S2, where the subject comes again, and the end.

# %%
NAMES = """Mary, John, Paul, Anna, Sarah, Tom, James, Emma, Alice, Mark, David, Laura, Kate, Peter, Robert, Lucy,
Michael, Jane, Susan, Henry, Richard, Helen, Ruth, Simon, Adam, Julia, Claire, Martin, Daniel, Rose, Grace, George"""
PROMPT = "When {} and {} went to the store, {} gave a drink to"
drawn = random.Random(0).sample(list(itertools.permutations(NAMES.replace("\n", " ").split(", "), 2)), 200)
order = [(io, s) if i % 2 == 0 else (s, io) for i, (io, s) in enumerate(drawn)]
pairs = PromptPairs(
    clean=[PROMPT.format(*first, s) for first, (io, s) in zip(order, drawn, strict=True)],
    corrupted=[PROMPT.format(*first, io) for first, (io, s) in zip(order, drawn, strict=True)],
    correct=[f" {io}" for io, s in drawn],
    incorrect=[f" {s}" for io, s in drawn],
)
S2, END = 9, 13
effect = sweep_dataset(
    model,
    pairs,
    site="resid_pre",
    over=("layer", "pos"),
    layers=range(16, 30),
    positions=[S2, END],
    normalize=True,
    folder=FOLDER / "sweep",
    progress=False,
)
about = effect.attrs
print(f"{about['n']} pairs; logit difference {about['baseline']:+.2f} corrupted, {about['target']:+.2f} clean")
width = float((effect.ci_high - effect.ci_low).max())
print(f"widest 95 % interval: {width:.3f} of the gap")
at_s2, at_end = effect.sel(pos=S2), effect.sel(pos=END)
for layer in (16, 19, 20, 21, 23, 24, 29):
    print(f"layer {layer}: S2 {float(at_s2.sel(layer=layer)):+.2f}, end {float(at_end.sel(layer=layer)):+.2f}")
assert at_s2[0] > 0.8 > 0.2 > at_s2[-1] and at_end[0] < 0.1 < 0.8 < at_end[-1] and width < 0.2
figure = figures.curves(
    {
        f"{name}{part}": (effect.layer.values, values.values)
        for name, at in (("S2", at_s2), ("end", at_end))
        for part, values in (("", at), (", from", at.ci_low), (", to", at.ci_high))
    },
    title="Logit difference restored by the clean stream before a layer, 200 pairs",
    x="layer",
    y="fraction of the gap",
)
for trace in figure.data:
    of = next(other for other in figure.data if other.name == trace.name.split(",")[0])
    trace.line.update(color=of.line.color, width=2.5 if trace is of else 0.8)
figure

# %% [markdown]
# Up to layer 19 the stream at S2 carries what decides; layers 20 and 23 move it to the end. Six pairs had shown the
# same, and could not say how sure it was.
#
# All of this is in a folder now. The cells above, run again, only read it:

# %%
again = harvest(model, Texts(corpus), SITE, folder=FOLDER / "harvest", n_ctx=N_CTX, progress=False)
assert torch.equal(again[SITE].rows([5, -1]), stored.rows([5, -1]))
print(*sorted(path.name for path in FOLDER.iterdir()))
