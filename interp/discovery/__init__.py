"""Discovery: which edges of the computation graph do it, and whether they suffice.

| word | means |
|---|---|
| edge | one writer's contribution to what one reader reads, such as `L0H1 -> L2H3.q`; see `interp.model.EdgeGraph` |
| scores | a number for each edge, an `xarray.DataArray` [reader, writer] with names as coordinates; NaN: no edge |
| `Subgraph` | some of the edges, with the shape of the models that have them: a circuit that is claimed |
| `OnlyCircuit` | an edit of a run under which every edge outside a circuit carries another run |
| run as it is | the run in which edges are replaced (of the clean prompt, when noising) |
| other run | what replaced edges carry: the corrupted prompt's run, or zeros, or a mean |
| faithfulness | the share of what the model does that a circuit does alone: 1 is faithful, more is not better |
| complete, minimal | nothing that stands in for the rest is missing, and no edge is there for nothing |
| masked run | a run in which every edge carries the run as it is (mask 0), the other run (1), or what lies between |
| probe | some edges patched exactly, which say how far an estimate is off |
| dead end | an edge on no path from the embeddings to the logits; `Subgraph.pruned` leaves these out |

| file, each standing on those before it | what it holds |
|---|---|
| `walk.py`, `masked.py` | the engine: blocks whose readers each have a stream, and the masked runs of a pair |
| `changes.py`, `exact.py` | one component computed anew, and the exact effects of single edges |
| `gradients.py`, `estimates.py` | gradients with respect to what readers read, and the estimates made of them |
| `probe.py`, `scores.py` | estimates beside exact effects; `edge_scores` and `node_scores` |
| `ranking.py`, `subgraph.py`, `exchange.py` | which scores count for more; circuits as values; their JSON |
| `only.py` | `OnlyCircuit`, which stands on hooks alone and shares no arithmetic with the engine |
| `circuit_runs.py` | runs of many circuits, and which differences between them are noise |
| `faithfulness.py`, `curves.py`, `completeness.py`, `stability.py` | how circuits are judged |
| `acdc.py` | the search that drops edge after edge |
| `datasets.py` | scores, faithfulness and curves over data sets of pairs, as jobs |
| `calibration.py` | scores and circuits beside edges that are known |
"""

from interp.discovery.acdc import acdc
from interp.discovery.calibration import PrecisionRecall, auroc, hit, precision_recall
from interp.discovery.completeness import Completeness, Minimality, completeness, minimality
from interp.discovery.curves import faithfulness_curve
from interp.discovery.datasets import edge_scores_dataset, faithfulness_curve_dataset, faithfulness_dataset
from interp.discovery.exchange import from_mib, to_mib
from interp.discovery.faithfulness import faithfulness
from interp.discovery.gradients import PathEnd
from interp.discovery.masked import EdgeRuns
from interp.discovery.only import OnlyCircuit
from interp.discovery.options import (
    AblationOptions,
    AcdcOptions,
    ClaimOptions,
    EdgeOptions,
    JudgingDatasetOptions,
    JudgingOptions,
    ScoreDatasetOptions,
    ScoreOptions,
)
from interp.discovery.ranking import RankBy, score_matrix
from interp.discovery.scores import MethodName, edge_scores, node_scores
from interp.discovery.stability import stability
from interp.discovery.subgraph import Subgraph

__all__ = [
    "AblationOptions",
    "AcdcOptions",
    "ClaimOptions",
    "Completeness",
    "EdgeOptions",
    "EdgeRuns",
    "JudgingDatasetOptions",
    "JudgingOptions",
    "MethodName",
    "Minimality",
    "OnlyCircuit",
    "PathEnd",
    "PrecisionRecall",
    "RankBy",
    "ScoreDatasetOptions",
    "ScoreOptions",
    "Subgraph",
    "acdc",
    "auroc",
    "completeness",
    "edge_scores",
    "edge_scores_dataset",
    "faithfulness",
    "faithfulness_curve",
    "faithfulness_curve_dataset",
    "faithfulness_dataset",
    "from_mib",
    "hit",
    "minimality",
    "node_scores",
    "precision_recall",
    "score_matrix",
    "stability",
    "to_mib",
]
