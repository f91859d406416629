"""What lies in a model's folder: what is missing there, and weights that would be taken for others in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from transformers import PretrainedConfig

from kdtutor.errors import KDTutorError

# What DataParallel, torch.compile and Lightning put before each name.
WRAPPERS = ("module.", "_orig_mod.", "model.")
LFS = b"version https://git-lfs"


def check_complete(folder: Path) -> None:
    """Refuse a folder without safetensors, or with a part of them, with what would help."""
    if (folder / "adapter_config.json").is_file() and not [*folder.glob("model*.safetensors")]:
        raise KDTutorError(
            f"{folder} holds an adapter (PEFT), not a model: merge it into its base first, "
            "AutoPeftModelFor….from_pretrained(…).merge_and_unload().save_pretrained(…)"
        )
    files = {file.name for file in folder.glob("*.safetensors")}
    if not files:
        raise KDTutorError(
            f"{folder} holds no .safetensors file{_instead(folder)}; kdtutor loads no other format, since a pickle can "
            "run code"
        )
    for name in sorted(files):
        with (folder / name).open("rb") as file:
            if file.read(len(LFS)) == LFS:
                raise KDTutorError(f"{folder / name} is a pointer of git LFS, not the weights: git lfs pull")
    index = folder / "model.safetensors.index.json"
    if "model.safetensors" not in files and any("-of-" in name for name in files):
        if not index.is_file():
            raise KDTutorError(
                f"{folder} holds weights in parts, but lacks {index.name}, which says what is where"
            )
        named = {*json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()}
        if lacking := sorted(named - files):
            raise KDTutorError(f"{folder} lacks {', '.join(lacking)}, which {index.name} names")


def _instead(folder: Path) -> str:
    """Say what is there instead of safetensors."""
    below = sorted(file.parent.name for file in folder.glob("*/*.safetensors"))
    if below:
        return f"; its folder {below[-1]} does: {folder / below[-1]}"
    if [*folder.glob("pytorch_model*.bin")]:
        return ", but pytorch_model.bin: from_pretrained(…).save_pretrained(…) in transformers writes it anew"
    if (folder / "model.onnx").is_file():
        return ", but model.onnx, which OnnxModel reads and nothing trains: take the model that was exported"
    return ""


def check_not_quantized(config: PretrainedConfig, folder: Path, name: str) -> None:
    """Refuse weights of integers or of 8 bits: read as they are, they are other numbers."""
    how = (getattr(config, "quantization_config", None) or {}).get("quant_method")
    if how is None and not _has_integer_weights(folder):
        return
    raise KDTutorError(
        f"{name} holds quantised weights{f' ({how})' if how else ''}: take the model that it was made from, and "
        "quantise the student once it is trained (kdtutor export --precision int8)"
    )


def _has_integer_weights(folder: Path) -> bool:
    """Tell whether a weight is stored in integers; a file that is cut or empty is refused by its name."""
    from safetensors import SafetensorError, safe_open

    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as weights:
                names = [name for name in weights.keys() if name.endswith("weight")]  # noqa: SIM118 - no mapping
                if any(weights.get_slice(name).get_dtype()[:1] in "IU" for name in names):
                    return True
        except SafetensorError as error:
            raise KDTutorError(
                f"{file} is no whole safetensors file ({error}): fetch or save it again"
            ) from error
    return False


def check_all_layers_read(config: PretrainedConfig, unused: Iterable[str], name: str) -> None:
    """Refuse a checkpoint with more layers than its configuration says: the others would be left out in silence."""
    most = getattr(config, "num_hidden_layers", None)
    for key in unused:
        found = re.search(r"\.(?:layers?|h|block)\.(\d+)\.", key)
        if found and isinstance(most, int) and int(found[1]) >= most:
            raise KDTutorError(
                f"{name} holds {key}, but its config.json says num_hidden_layers = {most}: do they belong together?"
            )


def wrapped(unused: Iterable[str]) -> str:
    """Say whose wrapper a model was saved in, after a semicolon, if its parameters' names tell."""
    for wrapper in WRAPPERS:
        if any(key.startswith(wrapper) for key in unused):
            return f'; its names begin with "{wrapper}": save what is in that wrapper, not the wrapper'
    return ""
