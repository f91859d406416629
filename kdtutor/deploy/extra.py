"""What is known of an export before anything heavy is imported: its precisions, and the packages it needs."""

from __future__ import annotations

from importlib.util import find_spec

from kdtutor.errors import KDTutorError, one_of

PRECISION = one_of("float32", "float16", "int8", "int8-static")  # of an exported model


def require(what: str, *packages: str) -> None:
    """Raise KDTutorError if a package that `what` needs is not installed."""
    lacking = [package for package in packages if find_spec(package) is None]
    if lacking:
        names = " ".join(lacking)
        raise KDTutorError(
            f"{what} needs {names.replace(' ', ', ')}, which the extra `deploy` has: python -m pip install {names}"
        )
