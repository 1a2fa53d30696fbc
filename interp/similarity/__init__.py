"""How alike an encoder finds two texts, and which of its parts make it so.

An encoder of sentences makes one vector of a text, and two texts are as alike as their vectors are: by the cosine of
the angle between them. `embeddings` returns vectors and `cosine_similarity` compares them. The vector is a linear map
of the last stream, which is a sum of what the parts of the model wrote, so that the cosine is a sum too:
`similarity_attribution` splits it exactly. `Similarity` is the cosine as a metric, for patching.
"""

from interp.similarity.attribution import similarity_attribution
from interp.similarity.metric import Similarity
from interp.similarity.vectors import cosine_similarity, embeddings

__all__ = ["Similarity", "cosine_similarity", "embeddings", "similarity_attribution"]
