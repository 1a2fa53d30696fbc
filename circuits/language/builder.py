"""Builder: the sentences in which a circuit is declared, heads, tables and counts, and those of `Numbers`."""

from collections.abc import Sequence
from typing import Literal, get_args

from circuits.language import neurons
from circuits.language.declaration import Declaration
from circuits.language.forms import Form, copy, match
from circuits.language.gaps import possible_scores
from circuits.language.heads import but_the_start, hard_head, soft_head
from circuits.language.numbers import Numbers
from circuits.language.parts import Attend, Head, Table, Ties
from circuits.language.placed import placed
from circuits.language.space import Coordinate, Label, Number, Space, is_finite, several
from circuits.language.stream import SCOPE
from interp.errors import ConfigError, check_choice, describe
from interp.indices import check_count
from interp.keywords import known_keywords


class Builder(Numbers):
    """A declaration, and everything that it can say.

    A layer is left out (`c.head("previous", ...)`) or given first (`c.head(0, "previous", ...)`). A part without one
    goes into the earliest layer after everything that writes what it reads.

    Arguments, attributes and errors are those of `Declaration`.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="ab", n_ctx=3)
    >>> earlier = c.space("earlier", "ab")
    >>> _ = c.head("one", qk=match(c.tok, c.tok), ov=copy(c.tok, earlier))
    >>> _ = c.head("two", qk=match(c.tok, c.tok), ov=copy(earlier, c.out))
    >>> c.n_layers  # the second reads what the first writes
    2
    """

    @placed
    def head(
        self,
        layer: int | None,
        name: str,
        qk: Form | None = None,
        ov: Form | None = None,
        *,
        sink: Number | None = None,
        ties: Ties = "mean",
        recency: Number | None = None,
        sharp: Number | None = None,
        gap: Number | None = None,
        attend: Attend = "hard",
    ) -> Head:
        """An attention head.

        Args:
            layer: from 0 on, or left out: the earliest after everything that writes what the head reads.
            name: what messages and `edges()` call it.
            qk: what makes a key a match; without it, all visible keys tie.
            ov: what is copied from the key that is attended to.
            sink: weight of the start of the text as a key, to which the head goes where nothing matches. By default
                between no match and the smallest match (0 without `bos` or `qk`, and for soft heads); with 0 there is
                none, and without a match the head averages over what it sees. A head with a sink copies nothing from
                there (see `copy`).
            ties: what to attend to where several keys match: their "mean", the "latest" or the "first".
            recency: how much the latest key is preferred to the first, for ties "latest" and "first"; below half the
                gap, by default .4 of it.
            sharp: factor on the scores; by default what `compile` needs for its error, and 1 for a soft head.
            gap: by how much scores differ at least; by default computed from the form. With it the head may also match
                spaces that hold shares or numbers.
            attend: "hard", to the best keys alone, or "soft", to all keys by the softmax of the scores times `sharp`,
                for the interpreter as for the model. A soft head has neither ties, recency nor gap.

        Returns the head as declared; its layer is settled in `parts`. Raises `ConfigError` naming the head: an
        impossible layer, a name that is taken, a space of another circuit, a sink without `bos`, a recency or gap out
        of range, a gap that is needed and not known.
        """
        return self._head(layer, name, qk, ov, self, sink, ties, recency, sharp, gap, attend)

    @placed
    def cross(
        self,
        layer: int | None,
        name: str,
        qk: Form | None = None,
        ov: Form | None = None,
        *,
        sink: Number | None = None,
        ties: Ties = "mean",
        recency: Number | None = None,
        sharp: Number | None = None,
        gap: Number | None = None,
        attend: Attend = "hard",
    ) -> Head:
        """A cross head: its keys, and what it copies, are the final stream of the source (`EncoderDecoder`).

        `c.cross("copy", qk=match(c.pos, c.source.pos), ov=copy(c.source.tok, c.out))`. Queries read spaces of the
        circuit, keys and values spaces of the source, and what is copied goes into a space of the circuit. All
        positions of the source are visible. Cross heads come after the heads of their layer, and read what these wrote.

        Arguments and errors are those of `head`; the sink is the start of the source. Also raises `ConfigError` for a
        circuit without a source.
        """
        if self.source is None:
            raise ConfigError(f"cross head {name!r} reads a source, and the circuit has none; declare it in an "
                              "EncoderDecoder(source, ...)")  # fmt: skip
        return self._head(layer, name, qk, ov, self.source, sink, ties, recency, sharp, gap, attend)

    def _head(
        self,
        layer: int | None,
        name: str,
        qk: Form | None,
        ov: Form | None,
        keys: Declaration,
        sink: Number | None,
        ties: Ties,
        recency: Number | None,
        sharp: Number | None,
        gap: Number | None,
        attend: Attend,
    ) -> Head:
        """A head whose keys are those of the circuit itself, or of its source."""
        name, where = self._new_name("head", layer, name)
        for what, form in (("qk", qk), ("ov", ov)):
            if form is not None and not isinstance(form, Form):
                raise ConfigError(f"{where}: {what} = {describe(form)}; allowed: a form, as match and copy return")
        qk, ov = qk or Form(), ov or Form()
        for term in qk.terms:
            self._check_space(where, term.rows)
            self._check_key(where, keys, term.columns)
        for term in ov.terms:
            self._check_key(where, keys, term.rows)
            self._check_space(where, term.columns)
        check_choice(f"{where}: attend", attend, get_args(Attend))
        for what, value in (("sharp", sharp), ("gap", gap)):
            if value is not None and not (is_finite(value) and value > 0):
                raise ConfigError(f"{where}: {what} = {describe(value)}; allowed: a finite number above 0")
        if attend == "soft":
            head = soft_head(self, keys, name, qk, ov, sink, sharp, ties=ties, recency=recency, gap=gap)
        else:
            head = hard_head(self, keys, name, qk, ov, sink, ties, recency, sharp, gap)
        self._add(head, layer)
        return head

    @placed
    def mlp(
        self,
        layer: int | None,
        name: str,
        reads: Space | Sequence[Space],
        writes: Space | Sequence[Space],
        table: Table,
        otherwise: Label | tuple[Label, ...] | None = None,
        overlaps: Literal["error", "sum"] = "error",
    ) -> None:
        """A lookup table in the MLP of a layer: one ramp an entry.

        An entry fires where every space holds what its key says, and writes one label into each space of `writes`.

        Args:
            layer, name: as for `head`.
            reads, writes: a space or several.
            table: a mapping from labels (a tuple where there are several spaces; `...` stands for anything, None for an
                empty space), or a function of one label a space which returns None for nothing. The function is not
                asked about empty spaces; there `otherwise` holds.
            otherwise: what is written where no entry fires.
            overlaps: whether entries that can fire together are an "error", or meant to "sum".

        Raises `ConfigError` naming the table: unknown labels, entries that overlap, a table without entries.
        """
        name, where = self._new_name("mlp", layer, name)
        read, written = several(reads), several(writes)
        self._check_space(where, *read, *written)
        if not written:
            raise ConfigError(f"{where}: it writes no space; allowed: a space or several")
        check_choice(f"{where}: overlaps", overlaps, ("error", "sum"))
        given = neurons.listed_table(where, read, written, table, otherwise, overlaps == "sum")
        twice = next((space for i, space in enumerate(written) if space in written[:i]), None)
        if twice is not None:
            raise ConfigError(f"{where}: it writes space {twice.name!r} twice; allowed: a label for each space")
        self._add(neurons.lookup(name, given, self.one["1"]), layer)

    @placed
    def count(
        self,
        layer: int | None,
        name: str,
        qk: Form | None,
        up_to: int,
        gate: Space | Coordinate | Sequence[Coordinate] | None = None,
    ) -> Space:
        """How many visible keys match, as a label: a new space with the labels 0 to `up_to`.

        A head spreads over the keys that match and over the start of the text, which so gets the share 1 / (n + 1); a
        bucket turns the share into n. More than `up_to` count as `up_to`.

        Args:
            layer, name: as for `head`; the space has this name, too.
            qk: what makes a key a match; without it, every key counts. Those count that have the largest score which
                `qk` can give, so that a sum of matches counts the keys that match in all of them. The start never does.
            up_to: the largest label.
            gate: nothing is written where this coordinate, or every coordinate of this space or list, is 0; by default
                at the start of the text.

        Raises `ConfigError` naming the count: a circuit without `bos`, scores that are not known, and a match by a
        space in which the embedding of the start matches.
        """
        name, where = self._new_name("count", layer, name)
        if self.bos is None:
            raise ConfigError(f"{where}: counting needs the start of the text; give the circuit bos=")
        check_count(f"{where}: up_to", up_to)
        words = [word for word in self.vocabulary.words if word != self.bos]
        inner = name.removeprefix("".join(scope + SCOPE for scope in self._scopes))
        qk = match(self.one, self.tok, {"1": words}) if qk is None else qk
        if not isinstance(qk, Form):
            raise ConfigError(f"{where}: qk = {describe(qk)}; allowed: a form, as match returns")
        qk = but_the_start(self, where, qk)
        scores = possible_scores(qk, self.holds, self.n_ctx).values
        if scores is None or not float(scores[-1]) > 0:
            said = "its scores are not known" if scores is None else "no key scores above 0"
            raise ConfigError(f"{where}: {said}; allowed: a match of labels")
        share, counted = self.space(f"{inner}/share", ["of the start"]), self.space(inner, range(up_to + 1))
        shares = copy(self.tok, share, {self.bos: "of the start"}, drop=())
        self.head(layer, inner, qk=qk, ov=shares, sink=float(scores[-1]))
        values = {n: 1 / (n + 1) for n in range(up_to + 1)}
        gate = [self.tok[word] for word in words] if gate is None else gate
        self.bucket(layer, f"{inner}/number", share, counted, values, gate=gate)
        return counted

    @known_keywords
    def direct(self, form: Form) -> None:
        """What the unembedding reads beside `out`: a path without a layer, from any space to words.

        `copy(c.tok, c.out, log_probabilities)` is a bigram model. Its logits lie below 0: a circuit predicts them with
        `nothing_below=-math.inf`. Raises `ConfigError` for a form that leads elsewhere than to `out`.
        """
        if not isinstance(form, Form) or not form.terms:
            raise ConfigError(f"direct: {describe(form)}; allowed: a form, as copy returns")
        for term in form.terms:
            self._check_space(f"direct: {term.name}", term.rows, term.columns)
            if term.columns != self.out:
                way = "; a readout is written by a part, such as an mlp" if term.columns.name in self.readouts else ""
                raise ConfigError(
                    f"direct: {term.name} leads to {term.columns.name!r}; allowed: {self.out.name!r}{way}"
                )
        self.directs.append(form)
