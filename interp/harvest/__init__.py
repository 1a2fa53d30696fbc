"""Activations of many texts on disk, and what is read off them.

`harvest` runs a model over a corpus and keeps what flows through some sites, a row for every token; `Store` reads it:
means and covariances, the tokens at which a direction is largest, shuffled batches for probes and dictionaries.
`loss_recovered` says how much of the loss an intervention keeps over a corpus, such as an autoencoder that is spliced
into the run.
"""

from interp.harvest.batches import Batches
from interp.harvest.examples import Example, TopExamples
from interp.harvest.harvesting import StoreDtype, harvest, harvest_size
from interp.harvest.loss import loss_recovered
from interp.harvest.store import Store, StoredRows, StoredSite

__all__ = [
    "Batches",
    "Example",
    "Store",
    "StoreDtype",
    "StoredRows",
    "StoredSite",
    "TopExamples",
    "harvest",
    "harvest_size",
    "loss_recovered",
]
