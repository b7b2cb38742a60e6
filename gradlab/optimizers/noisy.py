r"""Gradient descent with noise on the gradients that fades out.

With g the gradient, p the parameter, count = 0, 1, 2, ... and xi normal with mean 0 and variance 1::

    p = p - learning_rate * (g + sqrt(eta / (1 + count)^gamma) * xi)          arXiv 1511.06807
"""

from typing import Any

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.storage import storable
from gradlab.core.transform import Transform
from gradlab.transforms.noise import add_noise
from gradlab.transforms.scaling import scale_by_learning_rate


@storable
def noisy_sgd(
    learning_rate: Any, eta: Any = 0.01, gamma: Any = 0.55, key: Any = None, *, seed: int | None = None
) -> Transform:
    """Gradient descent with annealed Gaussian noise (Neelakantan et al. 2015, arXiv 1511.06807).

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      eta: variance of the noise at the first step.
      gamma: exponent at which the variance decays.
      key: a random key or an integer; 0 if None.  See `gradlab.add_noise`.
      seed: Optax's older name for an integer ``key``.

    Raises:
      ValueError: a negative number; both ``key`` and ``seed``.

    >>> import jax.numpy as jnp
    >>> tx = noisy_sgd(0.1, eta=0.25, key=0)
    >>> updates, state = tx.update(jnp.full(10_000, 2.0), tx.init(jnp.zeros(10_000)))
    >>> round(float(jnp.mean(updates)), 2), round(float(jnp.std(updates)), 2)
    (-0.2, 0.05)
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(add_noise(eta, gamma, key, seed=seed), scale_by_learning_rate(learning_rate))
