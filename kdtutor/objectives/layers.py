"""Which layer of the teacher each layer of the student learns from: by name, as a list, or written out.

    "last"           the student's last layer from the teacher's last
    "first"          their first layers
    "every second"   the student's layer i from the teacher's layer 2i
    "evenly"         the student's layer i from the teacher's i · n / m (rounded up): any m layers from any n
    [2, 4, 6]        the student's layers 1, 2 and 3 from these
    {1: 2, -1: -1}   the student's: the teacher's; 0 is the embeddings, −1 the last layer

By an even map teach PKD ("skip", Sun et al. 2019, arXiv:1908.09355) and TinyBERT (Jiao et al. 2020, arXiv:1909.10351).
None is best everywhere: it is a setting to be tried.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

from kdtutor.errors import nearest
from kdtutor.objectives.rows import ObjectiveError

LayerMap = Mapping[int, int] | Sequence[int] | str


def _every_second(student_depth: float, teacher_depth: float) -> dict[int, int]:
    if 2 * student_depth > teacher_depth:
        raise ObjectiveError(
            f'"every second" of the teacher\'s {teacher_depth} layers are {teacher_depth // 2}, and the student has '
            f'{student_depth}: "evenly" goes with any two depths'
        )
    return {i: 2 * i for i in range(1, int(student_depth) + 1)}


def _evenly(student_depth: float, teacher_depth: float) -> dict[int, int]:
    return {i: math.ceil(i * teacher_depth / student_depth) for i in range(1, int(student_depth) + 1)}


NAMED: dict[str, Callable[[float, float], dict[int, int]]] = {
    "last": lambda *depths: {-1: -1},
    "first": lambda *depths: {1: 1},
    "every second": _every_second,
    "evenly": _evenly,
}


def check_layers(layers: LayerMap) -> LayerMap:
    """Return a map of layers as a term keeps it: a name, a copy of a list or dict. ObjectiveError if it is none."""
    if isinstance(layers, str):
        if layers not in NAMED:
            raise ObjectiveError(nearest("map of layers", layers, NAMED))
        return layers
    numbers = [*layers, *layers.values()] if isinstance(layers, Mapping) else layers
    if isinstance(numbers, Sequence) and numbers and all(type(number) is int for number in numbers):
        return dict(layers) if isinstance(layers, Mapping) else [*layers]
    raise ObjectiveError(
        "layers maps the student's to the teacher's, like {1: 2}, [2, 4] (of layers 1 and 2) or "
        f'"every second", not {layers!r}'
    )


def layer_pairs(
    layers: LayerMap, student_depth: float, teacher_depth: float, lowest: int = 0
) -> dict[int, int]:
    """Write a map of layers out for models of these depths: {student's: teacher's}.

    lowest: 0 where embeddings count as a layer, or 1. A depth that is not known is infinite. Warns where the map
    crosses; raises ObjectiveError where a layer is named that is not there.
    """
    if isinstance(layers, str) and layers in ("every second", "evenly"):
        for who, depth in (("student", student_depth), ("teacher", teacher_depth)):
            if depth == math.inf:
                raise ObjectiveError(
                    f'the {who}\'s config names no num_hidden_layers, which "{layers}" asks for'
                )
    if isinstance(layers, str):
        pairs = NAMED[layers](student_depth, teacher_depth)
    else:
        pairs = dict(layers) if isinstance(layers, Mapping) else dict(enumerate(layers, start=1))

    # Is every layer there?
    both = ("student", student_depth, pairs.keys()), ("teacher", teacher_depth, pairs.values())
    for who, depth, chosen in both:
        if missing := [layer for layer in chosen if not _is_there(layer, depth, lowest)]:
            there = (
                f"hidden states {missing}, only 0 (embeddings)"
                if lowest == 0
                else f"layers {missing}, only 1"
            )
            raise ObjectiveError(f"the {who} has no {there} to {depth}")
    _warn_if_crossing(pairs, student_depth, teacher_depth)
    return pairs


def _is_there(layer: int, depth: float, lowest: int) -> bool:
    return lowest <= layer <= depth or lowest - depth - 1 <= layer < 0


def _warn_if_crossing(pairs: Mapping[int, int], student_depth: float, teacher_depth: float) -> None:
    """Say it where a later layer of the student learns from an earlier one of the teacher: allowed, rarely meant."""
    if math.inf in (student_depth, teacher_depth):
        return
    counted = sorted(
        (_from_the_start(i, student_depth), _from_the_start(j, teacher_depth)) for i, j in pairs.items()
    )
    for (i, first), (k, second) in itertools.pairwise(counted):
        if i < k and first > second:
            warnings.warn(
                f"the map of layers crosses: the student's layer {i} learns from the teacher's {first}, and its later "
                f"layer {k} from the earlier {second}",
                stacklevel=2,
            )
            return


def _from_the_start(layer: int, depth: float) -> float:
    return layer if layer >= 0 else depth + 1 + layer
