"""The files that ship with kdtutor: data, tokenizer and teachers, each checked by its SHA-256 before use.

`manifest.json` holds the SHA-256 and the size of every file below `data/`, `tokenizer/`, `models/` and `answers/`;
`tools/build_assets.py` says how data and tokenizer were made, each card.json how its model was. Only the standard
library is imported here.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from ..errors import KDTutorError, nearest
from ..files import sha256

ROOT = Path(__file__).resolve().parent


class AssetError(KDTutorError):
    """An embedded file is unknown, missing, or not the file that was shipped."""


def asset_path(relative: str) -> Path:
    """Give the path of an asset such as "data/supersense/train.parquet", whether or not it exists or is intact."""
    return ROOT / relative


@cache
def manifest() -> dict[str, dict]:
    """Read what was shipped: relative path to {"sha256": ..., "bytes": ...}."""
    try:
        files = json.loads((ROOT / "manifest.json").read_text(encoding="utf-8"))["files"]
        if not all(isinstance(about["sha256"], str) and about["bytes"] >= 0 for about in files.values()):
            raise ValueError("it lists no files")
        return files
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise AssetError(
            f"{ROOT / 'manifest.json'} cannot be read ({error}); {_restore('manifest.json')}"
        ) from error


@cache
def verified(relative: str) -> Path:
    """Give the path of an asset file, or of a folder of them, once its content is known to be what was shipped.

    Each is hashed once per process. Raises AssetError, naming the file, both hashes and how to restore it.
    """
    files = manifest()
    inside = [name for name in files if name.startswith(f"{relative}/")]
    if relative not in files and not inside:
        raise AssetError(nearest("asset", relative, files))
    for name in [relative] if relative in files else inside:
        _check(name)
    return asset_path(relative)


def verify_all() -> dict[str, str]:
    """Check every asset: relative path to "ok", or to the message that `verified` would raise."""
    report = {}
    for name in manifest():
        try:
            _check(name)
            report[name] = "ok"
        except AssetError as error:
            report[name] = str(error)
    return report


def _check(name: str) -> None:
    path, expected = asset_path(name), manifest()[name]
    if not path.is_file():
        raise AssetError(f"asset {name} is missing (SHA-256 {expected['sha256']}); {_restore(name)}")
    found = sha256(path)
    if found != expected["sha256"]:
        size = path.stat().st_size
        raise AssetError(
            f"asset {name} is not the file that was shipped: expected SHA-256 {expected['sha256']} "
            f"({expected['bytes']} bytes), found {found} ({size} bytes); {_restore(name)}"
        )


def _restore(name: str) -> str:
    return (
        f"restore it with `git checkout -- kdtutor/assets/{name}` in a clone, "
        "or `pip install --force-reinstall kdtutor` elsewhere"
    )
