"""A search space: dotted hyperparameter names, each with the dimension that its values come from."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gradlab.core.check import suggestion
from gradlab.sweeps.spaces.dimensions import KINDS, Choice, Dimension, Fixed, OneMinus, choice, fixed
from gradlab.sweeps.spaces.trial import Trial, canonical_json

RESERVED = (
    "uid",
    "seed",
    "status",
    "steps",
    "best_step",
    "diverged_at",
    "bucket",
    "lane",
    "mean",
    "std",
    "n",
    "diverged",
)
RESERVED_ENDINGS = ("_final", "_best")


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Trials of one structure: they differ in numbers only, and run as lanes of one compiled program."""

    structure: dict[str, Any]  # the values of the structural dimensions, by name
    positions: tuple[int, ...]  # where the trials stand in the list that was grouped
    trials: tuple[Trial, ...]


class Space(Mapping[str, Dimension]):
    """An ordered mapping from dotted names to dimensions.

    Args:
      dimensions: name -> dimension, or what `dimension_from` reads: a number, string, bool or None stays fixed, a
        list is a choice, ``{'log': [1e-4, 1e-1]}`` names the kind.

    Raises:
      TypeError: something is not a mapping, a name is not a string, a dimension is none.
      ValueError: no dimension; a name that is not dotted identifiers, that a column of the results has, or that
        begins another name; impossible bounds or values.

    >>> space = Space({'learning_rate': {'log': [1e-3, 1e-1]}, 'nesterov': [True, False], 'b1': 0.9})
    >>> space.varying, space.structural
    (('learning_rate', 'nesterov'), ('nesterov',))
    """

    def __init__(self, dimensions: Mapping[str, Any]):
        if not isinstance(dimensions, Mapping):
            raise TypeError(f"a space maps names to dimensions, got {type(dimensions).__name__}: {dimensions!r}")
        if not dimensions:
            raise ValueError("the space has no dimensions; give at least one, fixed(value) if nothing varies")
        for name in dimensions:
            _check_name(name, dimensions)
        self._dimensions = {name: _named_dimension(name, spec) for name, spec in dimensions.items()}

    def __getitem__(self, name: str) -> Dimension:
        return self._dimensions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dimensions)

    def __len__(self) -> int:
        return len(self._dimensions)

    def __repr__(self) -> str:
        return f"Space({self._dimensions!r})"

    @property
    def varying(self) -> tuple[str, ...]:
        """The names that a sampler has to give values to: all but the fixed ones."""
        return tuple(name for name, dimension in self.items() if not isinstance(dimension, Fixed))

    @property
    def structural(self) -> tuple[str, ...]:
        """The names whose values change the program and not only its numbers."""
        return tuple(name for name, dimension in self.items() if not dimension.dynamic)

    def spec(self) -> dict[str, Any]:
        """The space as plain data, for JSON and YAML; ``Space(space.spec()) == space``."""
        return {name: spec_of(dimension) for name, dimension in self.items()}

    def from_unit(self, units: Any) -> list[Trial]:
        """One trial for each point of the unit cube; duplicates are kept.

        Args:
          units: (n, number of varying names), in [0, 1].
        """
        units = np.asarray(units, np.float64)
        if units.ndim != 2 or units.shape[1] != len(self.varying):
            raise ValueError(f"`units` must have shape (n, {len(self.varying)}), got {units.shape}")
        drawn = {name: self[name].from_unit(units[:, index]) for index, name in enumerate(self.varying)}
        columns = [drawn[name] if name in drawn else self[name].from_unit(np.zeros(len(units))) for name in self]
        return [Trial.of(dict(zip(self, values, strict=True))) for values in zip(*columns, strict=True)]

    def bucket(self, trials: Sequence[Trial]) -> list[Bucket]:
        """Groups trials by the values of the structural names, in order of first occurrence.

        >>> space = Space({'nesterov': [True, False], 'decay': [0.5, 0.9]})
        >>> trials = space.from_unit([[0, 0], [0.9, 0], [0, 0.9]])
        >>> [(bucket.structure, bucket.positions) for bucket in space.bucket(trials)]
        [({'nesterov': True}, (0, 2)), ({'nesterov': False}, (1,))]
        """
        groups: dict[str, list[int]] = {}
        for position, trial in enumerate(trials):
            groups.setdefault(canonical_json(self._structure(trial)), []).append(position)
        return [
            Bucket(self._structure(trials[positions[0]]), tuple(positions), tuple(trials[i] for i in positions))
            for positions in groups.values()
        ]

    def _structure(self, trial: Trial) -> dict[str, Any]:
        return {name: trial.values[name] for name in self.structural}


def dimension_from(spec: Any) -> Dimension:
    """The dimension that plain data describe, as they come from YAML.

    ::

        0.9, 'cosine', true, null              fixed
        [32, 64], {choice: [32, 64]}           choice
        {linear: [0, 0.1]}                     linear, and in the same way log, integer
        {integer: [16, 256], log: true}        options stand beside the kind
        {choice: [32, 64], structural: true}   each value a program of its own
        {one_minus: {log: [1e-4, 1e-1]}}       1 - x

    Raises:
      TypeError: the data have no such form.
      ValueError: an unknown kind or option, or impossible values.

    >>> dimension_from({'one_minus': {'log': [1e-4, 1e-1]}})
    OneMinus(inner=Log(low=0.0001, high=0.1))
    """
    if isinstance(spec, Dimension):
        return spec
    if isinstance(spec, list | tuple):
        return choice(spec)
    if not isinstance(spec, Mapping):
        return fixed(spec)
    kinds = [key for key in spec if key in KINDS]
    kind = "integer" if "integer" in spec else kinds[0] if len(kinds) == 1 else None
    if kind is None:
        problem = f"names the kinds {kinds}; one dimension has one" if kinds else "names no kind of dimension"
        raise ValueError(f"{dict(spec)!r} {problem}{suggestion(next(iter(spec), ''), KINDS)}")
    options = {key: value for key, value in spec.items() if key != kind}
    allowed = _OPTIONS.get(kind, ())
    for key, value in options.items():
        if key not in allowed:
            raise ValueError(f"{kind} has no option {key!r}" + (suggestion(key, allowed) if allowed else ""))
        if not isinstance(value, bool):
            raise TypeError(f"option {key!r} of {kind} must be true or false, got {value!r}")
    return _build(kind, spec[kind], options)


def _build(kind: str, argument: Any, options: dict[str, bool]) -> Dimension:
    if kind in ("choice", "fixed"):
        return KINDS[kind](argument, **options)
    if kind == "one_minus":
        return KINDS[kind](dimension_from(argument))
    if isinstance(argument, str) or not isinstance(argument, Sequence) or len(argument) != 2:
        raise TypeError(f"{kind} takes the list [low, high], got {argument!r}")
    return KINDS[kind](*argument, **options)


def spec_of(dimension: Dimension) -> dict[str, Any]:
    """The plain data that `dimension_from` reads back.

    >>> spec_of(dimension_from({'integer': [1, 8], 'structural': True}))
    {'integer': [1, 8], 'structural': True}
    """
    if isinstance(dimension, Choice):
        return {"choice": [_listed(value) for value in dimension.values]} | _options_of(dimension, "choice")
    if isinstance(dimension, Fixed):
        return {"fixed": _listed(dimension.value)}
    if isinstance(dimension, OneMinus):
        return {"one_minus": spec_of(dimension.inner)}
    kind = next(kind for kind, built in KINDS.items() if type(dimension) is built)
    return {kind: [dimension.low, dimension.high]} | _options_of(dimension, kind)


_OPTIONS = {"integer": ("log", "structural"), "choice": ("structural",)}  # of the kinds of dimensions


def _options_of(dimension: Dimension, kind: str) -> dict[str, bool]:
    return {key: True for key in _OPTIONS.get(kind, ()) if getattr(dimension, key)}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _named_dimension(name: str, spec: Any) -> Dimension:
    try:
        return dimension_from(spec)
    except (TypeError, ValueError) as error:
        raise type(error)(f"dimension {name!r} of the space: {error}") from error


def _check_name(name: Any, names: Mapping[str, Any]) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the names of a space are strings, got {type(name).__name__}: {name!r}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{name!r} is not a dotted name such as 'learning_rate' or 'schedule.warmup'")
    if name in RESERVED or name.endswith(RESERVED_ENDINGS):
        raise ValueError(f"{name!r} is the name of a column of the results; give the path, such as 'optimizer.{name}'")
    longer = [other for other in names if isinstance(other, str) and other.startswith(f"{name}.")]
    if longer:
        raise ValueError(f"{name!r} cannot have values of its own while {longer[0]!r} lies inside it")
