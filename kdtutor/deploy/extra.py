"""The packages of the extra `deploy`: whoever lacks one is told its name, and how to get it."""

from __future__ import annotations

from importlib.util import find_spec

from kdtutor.errors import KDTutorError


def require(what: str, *packages: str) -> None:
    """Raise KDTutorError if a package that `what` needs is not installed."""
    lacking = [package for package in packages if find_spec(package) is None]
    if lacking:
        names = " ".join(lacking)
        raise KDTutorError(
            f"{what} needs {names.replace(' ', ', ')}, which the extra `deploy` has: python -m pip install {names}"
        )
