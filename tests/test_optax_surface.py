"""Changing the import is the whole migration: Optax's transforms are here, with its names, arguments and defaults."""

import inspect
import warnings
from collections.abc import Iterator

import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import gradlab

# What is Optax's own and stays there; states are its classes wherever it has the transform.
ELSEWHERE = {
    "optax.losses",
    "optax.projections",
    "optax.perturbations",
    "optax.assignment",
    "optax.tree_utils",
    "optax.microbatching",
    "optax._src.linear_algebra",
    "optax._src.numerics",
    "optax._src.utils",
}
IMPROVED = {"global_norm"}  # of those modules, what gradlab has in a better form
NOT_NEEDED = {
    "ShouldSkipUpdateFunction": "a type of Optax's for annotations",
    "ConditionFn": "a type of Optax's for annotations",
    "TransformInitFn": "a type of Optax's for annotations",
    "TransformUpdateFn": "a type of Optax's for annotations",
    "TransformUpdateExtraArgsFn": "a type of Optax's for annotations",
    "WrappedSchedule": "a schedule is a value here",
    "init_empty_state": "the init of Optax's own stateless transforms",
    "GaLoreDimensionNumbers": "Optax's own class, which galore takes",
}


def public(module) -> Iterator[tuple[str, object]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in dir(module):
            value = getattr(module, name)
            home = getattr(value, "__module__", "") or ""
            if not name.startswith("_") and callable(value) and (home.startswith("optax") or home == "functools"):
                yield name, value


def factories() -> dict[str, object]:
    found = {}
    for module in (optax, contrib, optax.transforms):
        for name, value in public(module):
            home = getattr(value, "__module__", "")
            is_elsewhere = any(home.startswith(prefix) for prefix in ELSEWHERE) and name not in IMPROVED
            is_state = inspect.isclass(value) and issubclass(value, tuple) and name[0].isupper()
            if not is_elsewhere and not is_state and name not in NOT_NEEDED:
                found[name] = value
    return found


FACTORIES = factories()


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_the_name_is_here(name):
    assert hasattr(gradlab, name)


def same_default(ours, theirs) -> bool:
    if isinstance(theirs, optax.GradientTransformation):
        return ours is None or isinstance(ours, optax.GradientTransformation)  # a default part: made anew, or gradlab's
    if ours is theirs or ours == theirs:
        return True
    if callable(ours) and callable(theirs) and not isinstance(theirs, type):
        return True  # a function by another one that does the same
    return isinstance(ours, type) and isinstance(theirs, type) and jnp.dtype(ours) == jnp.dtype(theirs)


@pytest.mark.parametrize("name", sorted(set(FACTORIES) & set(dir(gradlab))))
def test_arguments_and_defaults_are_those_of_optax(name):
    theirs = list(inspect.signature(FACTORIES[name]).parameters.values())
    ours = inspect.signature(getattr(gradlab, name)).parameters
    for position, parameter in enumerate(theirs):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        assert parameter.name in ours, f"{name} has no argument {parameter.name!r}"
        own = ours[parameter.name]
        assert same_default(own.default, parameter.default), (name, own, parameter)
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and own.kind is not own.KEYWORD_ONLY:
            assert list(ours).index(parameter.name) == position, f"{name}: {parameter.name} is not argument {position}"
        assert (own.kind is own.KEYWORD_ONLY) <= (parameter.kind is parameter.KEYWORD_ONLY), (name, own)
