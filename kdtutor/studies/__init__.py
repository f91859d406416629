"""Stored studies: a comparison trained at several seeds and kept as one JSON file, which notebooks show.

    kdtutor study logits              # makes the runs that the file lacks; may be stopped at any time
    stored = load("logits")           # what it found
    stored.scores("hard labels")      # test accuracy, one per seed
    stored.compare("soft targets, T = 2", "hard labels")    # paired over the seeds

Every configuration has the same student and the same steps, and at one seed the same initial weights and the
same order of the data: what differs is what the table says. Choose on the validation split; the test split is
only reported.
"""

from __future__ import annotations

from kdtutor.errors import KDTutorError, nearest
from kdtutor.studies.stored import Stored, read_file, results_file

#: the studies that `kdtutor study NAME` makes
STUDIES = (
    *("logits", "distilbert", "distilbert-longer", "distilbert-reviews"),
    *("shapes", "shapes-sentiment", "gap", "grid", "features", "sequences", "robustness"),
)


def load(name: str) -> Stored:
    """Read the stored results of a study; of `distilbert`, as `studies.distilbert.Results`."""
    file = results_file(name)
    if not file.is_file():
        stored = sorted(path.stem for path in file.parent.glob("*.json"))
        raise KDTutorError(nearest("stored study", name, stored) + f"; kdtutor study {name} makes it")
    record = read_file(file)
    if record.get("study") == "distilbert":
        from kdtutor.studies.distilbert import Results

        return Results(record)
    return Stored(record)
