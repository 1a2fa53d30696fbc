"""What the residual stream says about the next token, layer by layer, part by part and path by path.

`logit_lens` reads the stream at every layer as if the model ended there; `direct_attribution` splits a logit into what
each component, head, neuron or attended position wrote for it; `expand_logits` and `expand_scores` follow whole paths.
"""

from interp.lens.attribution import attribution_table, direct_attribution, key_effects, value_norms
from interp.lens.layers import logit_lens
from interp.lens.path_expansion import count_paths, expand_logits, expand_scores, expand_stream

__all__ = [
    "attribution_table",
    "count_paths",
    "direct_attribution",
    "expand_logits",
    "expand_scores",
    "expand_stream",
    "key_effects",
    "logit_lens",
    "value_norms",
]
