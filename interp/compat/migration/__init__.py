"""What a notebook or a Python file written for TransformerLens 1 to 3 becomes here, line by line; nothing is executed.

`sources` reads the Python in a file, `names` finds out which of TransformerLens' names its expressions mean, `table`
says what each of these is called here, and `reading` brings them together into a `Report`.
"""

from interp.compat.migration.reading import Finding, Report, read_file
from interp.compat.migration.table import VERDICTS, Verdict

__all__ = ["VERDICTS", "Finding", "Report", "Verdict", "read_file"]
