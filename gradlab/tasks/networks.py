"""Flax models, and what makes a task's network of any Linen or NNX model.

A network is the structure of a model: ``init(key) -> (params, model_state)`` and ``apply(params, model_state, x, key,
train) -> (outputs, model_state)`` over plain dicts of arrays.
"""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from gradlab.core import check
from gradlab.core.rule import Static, static
from gradlab.tasks.convolution import patch_convolution

ACTIVATIONS = {"relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}


def _activation(name: str | Callable) -> Callable:
    if callable(name):
        return name
    check.one_of("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Linear(nn.Module):
    """One affine map: linear, logistic or softmax regression, according to the loss."""

    features: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features)(x)


class MLP(nn.Module):
    """Dense layers of the given widths with an activation between them; the last width is that of the output."""

    features: tuple[int, ...]
    activation: str | Callable = "relu"

    @nn.compact
    def __call__(self, x):
        *hidden, outputs = self.features
        for features in hidden:
            x = _activation(self.activation)(nn.Dense(features)(x))
        return nn.Dense(outputs)(x)


class SmallCNN(nn.Module):
    """Two 3 x 3 convolutions on NHWC images, each followed by 2 x 2 mean pooling, and a dense layer."""

    outputs: int
    features: tuple[int, int] = (16, 32)

    @nn.compact
    def __call__(self, x):
        for features in self.features:
            convolved = nn.Conv(features, (3, 3), conv_general_dilated=patch_convolution)(x)
            x = nn.avg_pool(nn.relu(convolved), (2, 2), strides=(2, 2))
        return nn.Dense(self.outputs)(x.reshape(x.shape[0], -1))


class CharTransformer(nn.Module):
    """A decoder-only transformer with layer norm before each block (arXiv 2002.04745).

    Ids (n, t) become logits (n, t, vocabulary), with t at most ``context``.  Embeddings and head start small (standard
    deviation 0.02), so that the first loss is near log(vocabulary).
    """

    vocabulary: int
    context: int = 64
    width: int = 64
    heads: int = 4
    layers: int = 2
    dropout: float = 0.0

    @nn.compact
    def __call__(self, tokens, train: bool = False):
        small = nn.initializers.normal(0.02)
        positions = self.param("positions", small, (self.context, self.width))
        x = nn.Embed(self.vocabulary, self.width, embedding_init=small)(tokens) + positions[: tokens.shape[-1]]
        mask = nn.make_causal_mask(tokens)
        drop = functools.partial(nn.Dropout(self.dropout), deterministic=not train)
        for _ in range(self.layers):
            x = x + drop(nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask))
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + drop(nn.Dense(self.width)(hidden))
        return nn.Dense(self.vocabulary, kernel_init=small)(nn.LayerNorm()(x))


class NnxMLP(nnx.Module):
    """`MLP` in NNX, which is told its input width: ``functools.partial(NnxMLP, (64, 32, 10))`` makes a task of it."""

    def __init__(self, widths: tuple[int, ...], activation: str | Callable = "relu", *, rngs: nnx.Rngs):
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([nnx.Linear(inputs, outputs, rngs=rngs) for inputs, outputs in pairs])
        self.activation = activation

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = _activation(self.activation)(layer(x))
        return self.layers[-1](x)


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module with the shape of its input."""

    module: nn.Module
    example: Static  # jax.ShapeDtypeStruct of one batch of inputs, or a tree of them

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        x = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.example.value)
        variables = dict(self.module.init(key, x, **_mode(self.module, train=False)))
        params = variables.pop("params", {})
        return params, variables

    def apply(self, params: Any, model_state: Any, x: Any, key: jax.Array | None, train: bool) -> tuple[Any, Any]:
        variables = {"params": params, **model_state}
        mode = _mode(self.module, train)
        if not train:
            return self.module.apply(variables, x, **mode), model_state
        outputs, changed = self.module.apply(variables, x, rngs=key, mutable=list(model_state), **mode)
        return outputs, {**model_state, **changed}


@dataclasses.dataclass(frozen=True)
class _Build:
    """A ``functools.partial`` compared by value, so that tasks built twice share their compiled programs."""

    function: Callable
    arguments: Static

    @classmethod
    def of(cls, build: Callable) -> Callable:
        return cls(build.func, static((build.args, build.keywords))) if isinstance(build, functools.partial) else build

    def __call__(self, rngs: nnx.Rngs) -> nnx.Module:
        args, keywords = self.arguments.value
        return self.function(*args, **keywords, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class NnxNetwork:
    """An NNX module's graph in training and in evaluation mode, and how to build one with fresh parameters."""

    name: str
    build: Callable | None  # rngs=nnx.Rngs -> module; None for an instance, which brings its parameters
    training: nnx.GraphDef
    evaluation: nnx.GraphDef
    rngs: Static  # the tree of jax.ShapeDtypeStruct of its random states

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        _, params, _, model_state = _nnx_split(self.build(rngs=nnx.Rngs(key)))
        return params, model_state

    def apply(self, params: Any, model_state: Any, x: Any, key: jax.Array | None, train: bool) -> tuple[Any, Any]:
        graphdef = self.training if train else self.evaluation
        rngs = _fresh_rngs(self.rngs.value, jax.random.key(0) if key is None else key)
        module = nnx.merge(graphdef, *map(nnx.State, (params, rngs, model_state)))
        outputs = module(x, **_mode(module, train))
        return outputs, _nnx_split(module)[3] if train else model_state


def as_network(model: Any, x: Any) -> tuple[LinenNetwork | NnxNetwork, tuple[Any, Any] | None]:
    """The network of a model, and the (params, model_state) that an NNX instance brings along.

    Raises:
      TypeError: ``model`` is neither a Linen module, nor an NNX module, nor a function that builds one from ``rngs``.
    """
    if isinstance(model, nn.Module):
        example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x)
        return LinenNetwork(model, static(example)), None
    if isinstance(model, nnx.Module):
        _, params, _, model_state = _nnx_split(model)
        return _nnx_network(None, nnx.clone(model)), (params, model_state)
    if callable(model) and not (isinstance(model, type) and issubclass(model, nn.Module)):
        built = nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0)))
        if isinstance(built, nnx.Module):
            return _nnx_network(_Build.of(model), built), None
    raise TypeError(
        "`model` must be a Linen module such as MLP((64, 10)), an NNX module, or a function `rngs -> NNX module`; "
        f"got {model!r}"
    )


def _nnx_network(build: Callable | None, module: nnx.Module) -> NnxNetwork:
    module.train()
    training, _, rngs, _ = _nnx_split(module)
    module.eval()
    evaluation, *_ = _nnx_split(module)
    rngs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), rngs)
    return NnxNetwork(type(module).__name__, build, training, evaluation, static(rngs))


def _nnx_split(module: nnx.Module) -> tuple[nnx.GraphDef, dict, dict, dict]:
    """Graph, parameters, random states and all other variables but those sown, as plain dicts."""
    graphdef, params, rngs, _, rest = nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    return graphdef, *map(nnx.to_pure_dict, (params, rngs, rest))


def _fresh_rngs(shapes: dict, key: jax.Array) -> dict:
    """Random states that depend on the key alone: a key of its own for each stream, counts zero."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    leaves, treedef = jax.tree.flatten(shapes)
    fresh = []
    for index, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            fresh.append(jax.random.split(jax.random.fold_in(key, index), leaf.shape))
        else:
            fresh.append(jnp.zeros(leaf.shape, leaf.dtype))
    return jax.tree.unflatten(treedef, fresh)


_TRAINING_VALUE = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def _mode(module: Any, train: bool) -> dict[str, bool]:
    """The argument of the module's call that says whether it trains, where it has one."""
    names = inspect.signature(type(module).__call__).parameters
    return {name: value is train for name, value in _TRAINING_VALUE.items() if name in names}
