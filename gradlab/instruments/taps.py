"""Tapped losses of Flax models for `backprop_profile`: the output of every module, without a change to the model."""

import contextvars
import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

from gradlab.instruments.depth import Tap


def linen_taps(loss: Callable[..., Any], pattern: str = "") -> Callable[..., Any]:
    """A tapped loss from one that calls Linen modules: ``backprop_profile(linen_taps(loss), params, batch)``.

    The output of every module's ``__call__`` is tapped under the module's path, that of the outermost one as
    ``(root)``; the second call of one module as ``path#2``.  Modules inside of `nn.scan`, `nn.remat`, `nn.jit` or
    `nn.vmap` must be left out of the pattern.

    Args:
      loss: any function that applies Linen modules, such as ``(params, batch) -> scalar``.
      pattern: a regular expression; the modules in whose path it occurs are tapped.

    Raises:
      ModuleNotFoundError: Flax is not installed.
      ValueError: the pattern is no regular expression.

    >>> import flax.linen as nn
    >>> import jax, jax.numpy as jnp
    >>> from gradlab.instruments.depth import backprop_profile
    >>> model = nn.Sequential([nn.Dense(2), nn.tanh, nn.Dense(1)])
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> tapped = linen_taps(lambda params, x: jnp.sum(model.apply(params, x)))
    >>> backprop_profile(tapped, params, jnp.ones((1, 3))).names
    ('layers_0', 'layers_2', '(root)')
    """
    nn = _flax("linen")
    search = _compiled(pattern)

    def tapped(tap: Tap, *args: Any, **kwargs: Any) -> Any:
        def intercept(next_call, call_args, call_kwargs, context):
            output = next_call(*call_args, **call_kwargs)
            name = "/".join(context.module.path) or "(root)"
            return tap(name, output) if context.method_name == "__call__" and search(name) else output

        with nn.intercept_methods(intercept):
            return loss(*args, **kwargs)

    return tapped


def nnx_taps(loss: Callable[..., Any], pattern: str = "") -> Callable[..., Any]:
    """A tapped loss from one of an NNX module: ``backprop_profile(nnx_taps(loss), model, batch)``.

    The output of every module's ``__call__`` is tapped as by `linen_taps`.  The loss gets a copy of the module: what it
    changes in it, such as batch statistics, is lost.  Modules that `nnx.scan`, `nnx.remat` or `nnx.jit` rebuild inside
    of the loss, or that it copies, are not tapped: leave these transformations out of it.

    Args:
      loss: ``(module, ...) -> scalar``.
      pattern: a regular expression; the modules in whose path it occurs are tapped.

    Raises:
      ModuleNotFoundError: Flax is not installed.
      ValueError: the pattern is no regular expression.

    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> from gradlab.instruments.depth import backprop_profile
    >>> model = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(2, 1, rngs=nnx.Rngs(1)))
    >>> backprop_profile(nnx_taps(lambda model, x: jnp.sum(model(x))), model, jnp.ones((1, 3))).names
    ('layers/0', 'layers/2', '(root)')
    """
    nnx = _flax("nnx")
    search = _compiled(pattern)

    def tapped(tap: Tap, model: Any, *args: Any, **kwargs: Any) -> Any:
        model = nnx.clone(model)
        names = {}
        for path, module in nnx.iter_modules(model):
            name = "/".join(map(str, path)) or "(root)"
            if callable(module) and search(name):
                names[id(module)] = name
                module.__class__ = _tapping(type(module))
        token = _ACTIVE.set((tap, names))
        try:
            return loss(model, *args, **kwargs)
        finally:
            _ACTIVE.reset(token)

    return tapped


_ACTIVE: contextvars.ContextVar = contextvars.ContextVar("tap and names of modules by identity", default=(None, {}))


@functools.cache
def _tapping(cls: type) -> type:
    """The subclass of an NNX module's class whose call taps its output."""

    def call(self, *args, **kwargs):
        output = cls.__call__(self, *args, **kwargs)
        tap, names = _ACTIVE.get()
        return tap(names[id(self)], output) if id(self) in names else output

    return type(cls)(cls.__name__, (cls,), {"__call__": call})


def _flax(part: str) -> Any:
    try:
        return importlib.import_module(f"flax.{part}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the taps of Flax models need flax, which the extra `lab` installs ({error}): pip install 'gradlab[lab]'"
        ) from error


def _compiled(pattern: str) -> Callable[[str], Any]:
    try:
        return re.compile(pattern).search
    except (re.error, TypeError) as error:
        raise ValueError(f"{pattern!r} is no regular expression for a module's path: {error}") from None
