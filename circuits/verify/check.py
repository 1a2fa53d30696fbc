"""The check of a circuit: model, interpreter and reference, compared on every text."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from circuits.compiler import compile_circuit
from circuits.language import Declaration, Number
from circuits.verify.answers import Reference
from circuits.verify.asked import Asked, AskedOptions
from circuits.verify.comparing import Check, Ends, check_model
from circuits.verify.nonzeros import through_nonzeros
from circuits.verify.report import Report
from interp.errors import ConfigError, describe
from interp.keywords import known_keywords
from interp.model import HookedTransformer


class VerifyOptions(AskedOptions, total=False):
    """What `Circuit.verify` takes besides inputs and reference; see `verify`."""

    model: HookedTransformer | None
    readout: str | None
    vectors: Callable[[str], Mapping[str, Any]] | None


@known_keywords
def verify(
    circuit: Declaration,
    inputs: Iterable[str] | None = None,
    reference: Reference | None = None,
    *,
    model: HookedTransformer | None = None,
    length: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    tolerance: Number = 1e-4,
    batch_size: int = 4096,
    progress: bool = True,
    title: str = "verifying",
    readout: str | None = None,
    vectors: Callable[[str], Mapping[str, Any]] | None = None,
) -> Report:
    """Run every input through the model and the interpreter, and compare both with the reference.

    Large tables are run through the nonzero entries of their weights (`through_nonzeros`).

    Args:
        inputs: texts; without them, all texts of `length` words after the start (never the start itself).
        reference: gives the right answer at each position of a text; by default the interpreter does.
        model: a model compiled from `circuit`, also one that was changed or saved and loaded since; by default
            `circuit.compile()`.
        length: words a text; by default as many as fit.
        sample: run so many of the inputs, drawn at random without replacement. The report says of how many.
        seed: of the sample.
        limit: the most inputs that are run. By default a million, or as many as take an hour.
        tolerance: how far logits may be from those that the reference gives, and logits and patterns of the model from
            the interpreter's; see `Report`.
        batch_size: texts a run.
        progress: show a progress bar, on standard error where that is a terminal.
        title: what the progress bar is called.
        readout: compare what this readout says, instead of the words that are predicted; answers are its labels.
        vectors: gives the vectors of a text, [pos, size], by space, for a circuit that reads some.

    Raises `ConfigError` for more inputs than the limit, which names the time that they would take and the ways out; for
    options that contradict each other, no inputs at all, a model of other sizes, or a reference that answers for
    another number of positions or with something else than words, None and mappings; `TokenError` for texts that the
    circuit does not take.

    >>> from circuits.gallery import entry
    >>> one = entry("previous_token")
    >>> verify(one.build(), one.inputs(), one.reference, sample=20, progress=False).ok
    True
    """
    if circuit.source is not None:
        raise ConfigError(f"{circuit!r} has a source; say verify_pair")
    asked = Asked(inputs, reference, length, sample, seed, limit, tolerance, batch_size, progress, title)
    texts = asked.texts(circuit)
    model = compile_circuit(circuit) if model is None else model
    check_model(circuit, model)
    if vectors is not None and not callable(vectors):
        raise ConfigError(f"vectors = {describe(vectors)}; allowed: a function from a text to its vectors, by space")
    ends = Ends(circuit, model, readout, vectors)
    with through_nonzeros(model):
        return asked.run(texts, lambda: Check(circuit, model, reference, float(tolerance), ends))
