"""What the contracts need to know of an optimizer beyond its row in the registry."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

import gradlab
from gradlab import REGISTRY
from gradlab.core.numerics import abs_sq

NAMES = sorted(REGISTRY)

# What solves a quadratic of condition 10 in 1000 steps and Rosenbrock's valley in 4000, under a cosine schedule; the
# default suits steps whose length is about the learning rate.
DEFAULT = {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.1}}
SOLVING: dict[str, dict[str, dict[str, Any]]] = {
    "acprop": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.01}},
    "adadelta": {"quadratic": {"learning_rate": 3.0}, "rosenbrock": {"learning_rate": 1.0}},
    "adagrad": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "adopt": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.3}},
    "amsgrad": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "cocob": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0, "alpha": 10.0}},
    "dadapt_adamw": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "delta_bar_delta": {
        "quadratic": {"learning_rate": 0.01},
        "rosenbrock": {"learning_rate": 1e-4, "kappa": 1e-5, "phi": 0.3},
    },
    "dog": {
        "quadratic": {"learning_rate": 1.0},
        "rosenbrock": {"learning_rate": 1.0, "init_step": ("distance", 0.1)},
    },
    "dowg": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "ema_sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.01}},
    "bfgs": {"quadratic": {}, "rosenbrock": {}},
    "heavy_ball": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.001}},
    "lars": {"quadratic": {"learning_rate": 3.0}, "rosenbrock": {"learning_rate": 3.0}},
    "momentum_sgd": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.001}},
    "nesterov_sgd": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.001}},
    "noisy_sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.002}},
    "optimistic_gradient_descent": {"quadratic": {"learning_rate": 0.05}, "rosenbrock": {"learning_rate": 0.001}},
    "hypergradient_sgd": {
        "quadratic": {"learning_rate": 0.1, "hyper_learning_rate": 1e-4},
        "rosenbrock": {"learning_rate": 0.001, "hyper_learning_rate": 1e-8},
    },
    "polyak_sgd": {"quadratic": {"max_learning_rate": 0.1}, "rosenbrock": {"max_learning_rate": 0.1}},
    "prodigy": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "lbfgs": {"quadratic": {}, "rosenbrock": {}},
    "nonlinear_cg": {"quadratic": {}, "rosenbrock": {}},
    "radam": {
        "quadratic": {"learning_rate": 0.1},
        "rosenbrock": {"learning_rate": 0.1, "unrectified": "skip"},
    },
    "rprop": {"quadratic": {"learning_rate": 0.01}, "rosenbrock": {"learning_rate": 0.01}},
    "simplified_ademamix": {
        "quadratic": {"learning_rate": 0.01, "b1": 0.9},
        "rosenbrock": {"learning_rate": 0.01},
    },
    "schedule_free_plus": {
        "quadratic": {"learning_rate": 1.0, "weight_power": 2.0},
        "rosenbrock": {"learning_rate": 1.0, "weight_power": 2.0},
    },
    "schedule_free_radam": {"quadratic": {"learning_rate": 0.3}, "rosenbrock": {"learning_rate": 0.3}},
    "schedule_free_sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.002}},
    "sign_sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.002}},
    "scion": {
        "quadratic": {"learning_rate": 0.1, "bias_radius": 1.0, "weight_decay": 0.0},
        "rosenbrock": {"learning_rate": 0.1, "bias_radius": 1.0, "weight_decay": 0.0},
    },
    "sm3": {"quadratic": {"learning_rate": 1.0}, "rosenbrock": {"learning_rate": 1.0}},
    "sgd": {"quadratic": {"learning_rate": 0.1}, "rosenbrock": {"learning_rate": 0.002}},
    "splus": {
        "quadratic": {"learning_rate": 0.1, "ema_rate": 0.9},
        "rosenbrock": {"learning_rate": 0.1, "ema_rate": 0.9},
    },
}

# Their learning rate is where step sizes of their own start: a schedule has no meaning for it.
STARTS_ONLY = {"delta_bar_delta", "hypergradient_sgd", "rprop"}

# Rules that read the sign of the gradient have no meaning for complex numbers; neither does AdaDelta's form in Optax.
REAL_ONLY = {"adadelta", "delta_bar_delta", "lion", "rprop", "sign_sgd", "signum", "sophia", "tiger"}

# They read the loss, and some the function that gives it.  Flax's own TrainState cannot pass either on.
NEEDS_VALUE = {
    "bfgs",
    "lbfgs",
    "momo",
    "momo_adam",
    "newton",
    "newton_cg",
    "nonlinear_cg",
    "polyak_sgd",
    "saddle_free_newton",
    "schedule_free_plus",
    "sophia",
}

# What stands in for the learning rate where the argument goes by another name.
RATE: dict[str, str] = {"polyak_sgd": "max_learning_rate"}

# The number by which the contract differentiates a run, where the loss hardly depends on the learning rate: the first
# steps of these are of the order of their first estimate.
DERIVATIVE_IN: dict[str, str] = {
    "cocob": "weight_decay",  # it does not notice the scale of its gradients
    "dadapt_adamw": "estim_lr0",
    "dog": "init_step",
    "dowg": "init_estim_sq_dist",
    "prodigy": "estim_lr0",
}

# Bases have no derivative (see `gradlab.core.kronecker`): the run that the contract differentiates refreshes none.
# Below its floor SOAP-Muon brings to size within four steps what rounding leaves in a direction without gradient.
SMOOTH: dict[str, dict[str, float]] = {
    "kl_shampoo": {"precondition_frequency": 10},
    "kl_soap": {"precondition_frequency": 10},
    "soap_muon": {"precondition_frequency": 10, "floor": 1.0},
}

# Steps at the start in which nothing moves, whatever the learning rate.
EMPTY_STEPS: dict[str, int] = {"schedule_free_radam": 4}

# A loop whose length depends on the data has a forward derivative alone.
FORWARD_ONLY: set[str] = {"bfgs", "lbfgs", "nonlinear_cg"}

# A line search that interpolates finds the minimum of the contract's quadratic whatever its numbers are: no derivative.
EXACT: set[str] = {"nonlinear_cg"}

# A random key is among their leaves; ``flax.nnx.Optimizer`` keeps its optimizer static and refuses to hold an array.
KEYED = {"noisy_sgd"}

# A field by the name of a moment that holds something else in Optax too: SM3's lists of row and column bounds; the
# averages of optimizers for matrices, for one part of the parameters or by shape.
OF_MATRICES = {"mu", "nu"}
NOT_LIKE_PARAMS: dict[str, set[str]] = {
    "sm3": {"mu"},
    "muon": OF_MATRICES,
    "normuon": OF_MATRICES,
    "adamuon": OF_MATRICES | {"trace"},
    "adamh": OF_MATRICES,
    "muonh": OF_MATRICES,
    "soaph": OF_MATRICES,
    "muon_squared": OF_MATRICES,
    "soap": OF_MATRICES,
    "shampoo": OF_MATRICES,
    "splus": OF_MATRICES,
    "psgd_kron": OF_MATRICES,
    "apollo": OF_MATRICES,
    "apollo_mini": OF_MATRICES,
    "fira": OF_MATRICES,
    "sinkgd": OF_MATRICES,
    "scale_sgd": OF_MATRICES,
    "dion": OF_MATRICES,
    "kl_shampoo": OF_MATRICES,
    "kl_soap": OF_MATRICES,
    "soap_muon": OF_MATRICES,
}

ZOOM = {
    "approx_dec_rtol",
    "curv_rtol",
    "increase_factor",
    "max_linesearch_steps",
    "slope_rtol",
    "stepsize_precision",
    "tol",
}

# Hyperparameters that belong to a part (a line search, a pair of decays) which a default argument brings along.
OF_PARTS: dict[str, set[str]] = {
    "bfgs": ZOOM,
    "dadapt_adamw": {"betas.0", "betas.1"},
    "dog": {"init_step"},
    "dowg": {"init_estim_sq_dist"},
    "galore": {"b1", "b2", "eps", "eps_root"},
    "lbfgs": ZOOM,
    "muon": {"adam_learning_rate", "adam_eps"},
    "normuon": {"adam_learning_rate"},
    "adamuon": {"adam_learning_rate"},
    "adamh": {"adam_learning_rate"},
    "muonh": {"adam_learning_rate"},
    "soaph": {"adam_learning_rate", "shampoo_beta"},
    "muon_squared": {"adam_learning_rate"},
    "nonlinear_cg": ZOOM,
    "prodigy": {"betas.0", "betas.1"},
    "soap": {"adam_learning_rate", "shampoo_beta"},
    "shampoo": {"adam_learning_rate"},
    "splus": {"adam_learning_rate"},
    "psgd_kron": {"adam_learning_rate"},
    "apollo": {"adam_learning_rate"},
    "apollo_mini": {"adam_learning_rate"},
    "fira": {"adam_learning_rate"},
    "sinkgd": {"adam_learning_rate"},
    "scale_sgd": {"adam_learning_rate"},
    "dion": {"adam_learning_rate"},
    "kl_shampoo": {"adam_learning_rate"},
    "kl_soap": {"adam_learning_rate"},
    "soap_muon": {"adam_learning_rate"},
}


def rate_of(name: str) -> str:
    return RATE.get(name, "learning_rate")


def build(name: str, **values: Any) -> Any:
    """The optimizer of a name, at learning rate 0.01 where it has no default number."""
    default = inspect.signature(REGISTRY[name]).parameters[rate_of(name)].default
    required = default is inspect.Parameter.empty or default is None
    return REGISTRY[name](**({rate_of(name): 0.01} if required else {}), **values)


def numbers(tx: Any) -> dict[str, float]:
    """The hyperparameters of an optimizer by name, but for random keys."""
    return {name: value for name, value in gradlab.hyperparams(tx).items() if isinstance(value, float)}


def map_numbers(function: Any, tx: Any) -> Any:
    """The optimizer with a function of each of its numbers; random keys stay as they are."""
    return jax.tree.map(lambda leaf: function(leaf) if isinstance(leaf, float) else leaf, tx)


def bowl(params: Any) -> jax.Array:
    """Half the squared length of all parameters: the loss that stands behind ``value`` and ``value_fn``.

    Twice differentiable also at zero, which the square of ``abs`` is not.
    """
    return sum(0.5 * jnp.sum(abs_sq(p)) for p in jax.tree.leaves(params))


def extra(name: str, params: Any) -> dict[str, Any]:
    """The extra arguments without which the optimizer of a name cannot work."""
    return {"value": bowl(params), "value_fn": bowl} if name in NEEDS_VALUE else {}


def update(name: str, tx: Any, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """One update; those that read the loss are told its gradient too, which chains of Optax do not supply."""
    needed = extra(name, params)
    return tx.update(grads, state, params, **needed, **({"grad": grads} if needed else {}))


def mixed_tree(dtype: Any = jnp.float64, seed: int = 0) -> dict[str, Any]:
    """A scalar, a matrix and an array of four axes, drawn from a normal distribution; Flax's models bring vectors."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"dense": {"kernel": (3, 2)}, "conv": (2, 2, 1, 3), "scale": ()}
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    arrays = [jax.random.normal(key, shape, jnp.float64).astype(dtype) for key, shape in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, arrays)


def run(name: str, tx: Any, params: Any, grads: list[Any]) -> tuple[Any, Any]:
    """Parameters and state after one update for each gradient tree."""
    state = tx.init(params)
    for grad in grads:
        updates, state = update(name, tx, grad, state, params)
        params = gradlab.apply_updates(params, updates)
    return params, state
