"""Programs of papers and other compilers: each is exact in the words that the language began with, and in all of it."""

import pytest
from programs import OfGallery, programs, row, table
from source_lines import n_lines


def test_there_are_31_programs_that_both_say():
    assert sum(program.before() is not None for program in programs().values()) == 31


@pytest.mark.parametrize("name", programs())
@pytest.mark.apart
def test_both_versions_are_exact_on_every_input_or_three_thousand_of_them(name: str):
    program = programs()[name]
    after = None if isinstance(program, OfGallery) else program.after()  # the gallery's own tests have that
    for circuit in (program.before(), after):
        if circuit is not None:
            report = program.verify(circuit, sample=3000)
            assert report.ok, report.worst
            assert report.pattern_error < 1e-5


def test_lines_are_those_of_the_body():
    def example(size: int) -> list[int]:
        """A docstring
        of two lines."""
        # a comment
        more = [
            size,
            size + 1,
        ]

        return more

    assert n_lines(example) == 4


def test_the_table_has_a_row_for_each_program_and_one_for_the_sum():
    assert table(["Xor"]).row_count == 2
    assert row("Xor").exact
