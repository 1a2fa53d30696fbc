"""The README of a benchmark set: what is in its files, and how methods are scored on them."""

from collections.abc import Mapping
from typing import Any

from circuits.benchmark.sizes import SIZES, SOFTNESS


def readme(tasks: Mapping[str, Any], n_pairs: int, seed: int) -> str:
    """The text, for tasks as the manifest describes them."""
    rows = [
        f"| `{name}` | {one['model']['n_layers']} | {one['model']['n_heads']} | {one['model']['d_model']} | "
        f"{one['model']['d_vocab']} | {one['n_edges']:,} | {one['n_true']} |"
        for name, one in tasks.items()
    ]
    sizes = [f"- {name}: {SIZES[name].about}" for name in dict.fromkeys(one["size"] for one in tasks.values())]
    degrees = [f"- {name}: {SOFTNESS[name].about}" for name in dict.fromkeys(one["softness"] for one in tasks.values())]
    return TEXT.format(n_pairs=n_pairs, seed=seed, rows="\n".join(rows), sizes="\n".join(sizes + degrees))


TEXT = """# Hidden circuits: a benchmark of circuit discovery

Each folder is a task: a transformer whose weights were written, not trained, so that it is known which of its edges
are the circuit. A method is given the model and {n_pairs} pairs of prompts, and is to find the edges. The set was
made with `interp circuits benchmark`, seed {seed}.

| task | layers | heads a layer | d_model | words | edges | of these true |
|---|---|---|---|---|---|---|
{rows}

{sizes}

## Files of a task

- `config.json`, `model.safetensors`: the architecture and the words, and the weights (float64).
- `prompts.jsonl`: a pair a line. `clean` and `corrupted` are token ids, all of one length; `correct` and `incorrect`
  are the tokens that are right after each. The behaviour to explain is at the last position of the clean prompt: the
  logit of `correct` minus that of `incorrect`.
- `edges.json`: `edges`, the true ones; `n_edges`, how many there are in the model; `effects` of each true edge on the
  mean logit difference, when it alone carries zeros ("zero") or what it carries in the corrupted prompt's run
  ("resample"); `nodes`, what each component of the circuit is; and sizes, seeds and options.

`manifest.json` has the SHA-256 of every file.

An edge is written `writer -> reader`. Writers are `embed` (words and positions together), heads (`L0H1`) and MLPs
(`L0.mlp`, with its bias); readers are the inputs of heads (`L1H0.q`, `L1H0.k`, `L1H0.v`), MLPs (`L1.mlp`) and `logits`.
There is an edge from every writer to every reader that comes after it; an MLP comes after the heads of its layer.
Biases of attention are no edges. The true edges are all along which the circuit sends anything; no other one has an
effect on any logit.

## The model

There are no norms, and attention scores are divided by `attn_scale`:

```python
import json
import numpy as np
from safetensors.numpy import load_file

def load(task):
    with open(f"{{task}}/config.json", encoding="utf-8") as file:
        return json.load(file)["config"], load_file(f"{{task}}/model.safetensors")

def logits(config, w, tokens):  # token ids [pos] -> [pos, word]
    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][: len(tokens)]
    hidden = np.triu(np.full((len(tokens),) * 2, -np.inf), 1) if config["attention_dir"] == "causal" else 0
    for layer in range(config["n_layers"]):
        of = lambda name: w[f"blocks.{{layer}}.{{name}}"]
        q, k, v = (np.einsum("pd,hde->hpe", x, of(f"attn.W_{{m}}")) + of(f"attn.b_{{m}}")[:, None] for m in "QKV")
        scores = q @ k.swapaxes(1, 2) / config["attn_scale"] + hidden
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        x = x + np.einsum("hpe,hed->pd", pattern @ v, of("attn.W_O")) + of("attn.b_O")
        if not config["attn_only"]:
            x = x + np.maximum(x @ of("mlp.W_in") + of("mlp.b_in"), 0) @ of("mlp.W_out") + of("mlp.b_out")
    return x @ w.get("unembed.W_U", w["embed.W_E"].T) + w["unembed.b_U"]
```

## How methods are scored

Methods that score edges, by `auroc` and `hit`; methods that choose some, by precision and recall. Of scores the size
counts, not the sign. Sizes below a millionth of the largest count as 0, and equal ones as half a pair.

- AUROC: the chance that a true edge has a larger score than another edge.
- Hit: of the true edges with an effect, the share whose score is over a tenth of it. `ablation` is "resample" for
  methods that compare with the corrupted prompt, and "zero" for those that compare with zeros. By resampling, edges
  that carry positions alone have no effect.

```python
def edges(task):
    with open(f"{{task}}/edges.json", encoding="utf-8") as file:
        return json.load(file)

def auroc(task, scores):  # scores by name, of all edges
    truth = edges(task)
    assert len(scores) == truth["n_edges"] and set(truth["edges"]) <= set(scores)
    sizes = np.abs(list(scores.values()))
    sizes[sizes < 1e-6 * sizes.max()] = 0
    true = np.isin(list(scores), truth["edges"])
    return (np.sign(sizes[true][:, None] - sizes[~true]) / 2 + 0.5).mean()

def hit(task, scores, ablation="resample"):
    truth = edges(task)
    effects = np.abs(truth["effects"][ablation])
    seen = effects >= 1e-6 * effects.max()
    sizes = np.abs([scores[name] for name in truth["edges"]])
    return (sizes > 0.1 * effects)[seen].mean()

def precision_recall(task, found):  # names of edges
    true = set(edges(task)["edges"])
    return len(true & set(found)) / len(found), len(true & set(found)) / len(true)
```

With the package `interp`: `circuits.benchmark.read_task(folder)` gives model, pairs and edges, and `interp.discovery`
has `edge_scores`, `acdc`, `auroc`, `hit` and `precision_recall`.
"""
