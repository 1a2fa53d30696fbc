"""The compiler: from a declared circuit to the weights of an ordinary `HookedTransformer`.

`compile_circuit` takes these steps. Positions are written in a code (`positions.py`, `encoding.py`); each head's
circuits are factored through d_head dimensions (`factors.py`), and ramps that bend together share neurons
(`neurons.py`); every part gets its place (`plan.py`); scores are multiplied until the softmax does what was declared
(`sharpness.py`); and all of it is put into a basis of the stream (`basis.py`, `weights.py`). Where rounding may matter
the model is tried before it is handed out (`trial.py`). With `Noise` and `Distract` the circuit is hidden in a larger
model (`hidden.py`). `compile_pair` does the same for both sides of a circuit with a source (`pair.py`). The
`CompiledTransformer` knows its circuit, its `edges()` and `nodes` are exact, and its `report` says what was chosen.
"""

from circuits.compiler.compile import compile_circuit
from circuits.compiler.hidden import Distract, Noise
from circuits.compiler.model import CompiledTransformer, CompileReport, HeadReport, Hidden
from circuits.compiler.options import CompileOptions, PairOptions
from circuits.compiler.pair import CompiledEncoderDecoder, compile_pair
from circuits.compiler.positions import (
    CODES,
    Circle,
    OneHot,
    PositionCode,
    Quadratic,
    Rotary,
    Sinusoidal,
    position_code,
)

__all__ = [
    "CODES",
    "Circle",
    "CompileOptions",
    "CompileReport",
    "CompiledEncoderDecoder",
    "CompiledTransformer",
    "Distract",
    "HeadReport",
    "Hidden",
    "Noise",
    "OneHot",
    "PairOptions",
    "PositionCode",
    "Quadratic",
    "Rotary",
    "Sinusoidal",
    "compile_circuit",
    "compile_pair",
    "position_code",
]
