"""Single-panel plotly figures: each a function from a result to a `plotly.graph_objects.Figure`.

| figure | of what |
|---|---|
| `pattern`, `patterns` | one head's attention; that of all heads of a layer |
| `sweep` | what `patching.sweep`, `patching.sweep_sites` (a variable of it) and `patching.path_sweep` return |
| `lens` | what `logit_lens` returns |
| `contributions` | what `direct_attribution` or `cache.logit_attrs` returns |
| `head_scores` | a score of all heads, of `heads.head_scores` or `weights.copying_scores` |
| `composition` | what `weights.composition_scores` returns |
| `token_table` | the `top_entries` of an OV or QK circuit |
| `eigenvalues` | a circuit, or its eigenvalues |
| `singular_directions` | what `weights.singular_directions` returns |
| `paths`, `path_sankey` | what `lens.expand_logits` returns |
| `loss_curves` | losses of training, with the phase change |
| `circuit` | a circuit that was found, `discovery.Subgraph`, or built, `Circuit` or its `edges()` |
| `faithfulness` | what `faithfulness_curve` returns |
| `token_flow` | attention between tokens, layer by layer |
| `array` | any labelled array of one or two axes |

All go through the builders `heatmap`, `heatmaps`, `bars`, `curves` and `table`, which also draw numbers of your own. A
figure shows itself at the end of a notebook cell; `figure.write_html(path)` writes a page.
"""

from interp.plot.attributions import contributions, lens, paths
from interp.plot.bars import bars
from interp.plot.graph_figures import circuit
from interp.plot.heatmap import heatmap
from interp.plot.heatmaps import heatmaps
from interp.plot.judged_circuits import faithfulness
from interp.plot.lines import curves
from interp.plot.patterns import pattern, patterns
from interp.plot.results import array, head_scores, loss_curves, sweep
from interp.plot.sankey import path_sankey
from interp.plot.style import COLORS
from interp.plot.tables import table
from interp.plot.token_flow import token_flow
from interp.plot.weight_figures import composition, eigenvalues, singular_directions, token_table

__all__ = [
    "COLORS",
    "array",
    "bars",
    "circuit",
    "composition",
    "contributions",
    "curves",
    "eigenvalues",
    "faithfulness",
    "head_scores",
    "heatmap",
    "heatmaps",
    "lens",
    "loss_curves",
    "path_sankey",
    "paths",
    "pattern",
    "patterns",
    "singular_directions",
    "sweep",
    "table",
    "token_flow",
    "token_table",
]
