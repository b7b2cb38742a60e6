"""Functions of one variable on which tutorials show gradient descent.

::

    parabola        x^2                   from  2
    sine_parabola   x^2 + sin x           from  2.5
    sine_hill       x^2 - 25 sin x        from -2    climbing 25 sin x - x^2
    damped_sine     sin(x) exp(-x^2/20)   from  0

The stationary points solve transcendental equations; they are given to float64 precision.
"""

import jax.numpy as jnp
import numpy as np

from gradlab.tasks.surface import Surface, make_surface


def parabola() -> Surface:
    """``x^2`` from x = 2: descent gives ``x[t] = 2 (1 - 2 lr)^t``, an endless swing between 2 and -2 at lr = 1.

    >>> float(parabola().function(jnp.array([2.0])))
    4.0
    """
    return make_surface(
        "parabola", _parabola, [2.0], bounds=(-2.5, 2.5), minima=[[0.0]], values=[0.0], hessians=[[[2.0]]]
    )


def _parabola(x):
    return x[0] ** 2


def sine_parabola() -> Surface:
    """``x^2 + sin x`` from x = 2.5: lr = 0.1 converges, 0.01 crawls, and 1 swings between pi/2 and -pi/2.

    >>> sine_parabola().minima.round(4).tolist()
    [[-0.4502]]
    """
    x = np.array([-0.45018361129487357])
    return make_surface(
        "sine_parabola",
        _sine_parabola,
        [2.5],
        bounds=(-3.0, 3.0),
        minima=x[:, None],
        values=x**2 + np.sin(x),
        hessians=2 - np.sin(x),
    )


def _sine_parabola(x):
    return x[0] ** 2 + jnp.sin(x[0])


def sine_hill() -> Surface:
    """``x^2 - 25 sin x`` from x = -2, the negative of the hill ``25 sin x - x^2`` that tutorials climb.

    From -2 a short step leads to the local minimum at -4.3564; the global one, at 1.4542, lies behind a ridge.

    >>> sine_hill().minima.round(4).tolist()
    [[1.4542], [-4.3564], [7.2366], [-10.0602]]
    """
    x = np.array([1.4541965749766172, -4.3564054153803887, 7.236571118164048, -10.060207840298058])
    return make_surface(
        "sine_hill",
        _sine_hill,
        [-2.0],
        bounds=(-8.0, 8.0),
        minima=x[:, None],
        values=x**2 - 25 * np.sin(x),
        hessians=2 + 25 * np.sin(x),
    )


def _sine_hill(x):
    return x[0] ** 2 - 25 * jnp.sin(x[0])


def damped_sine() -> Surface:
    """``sin(x) exp(-x^2 / 20)`` from x = 0, with a local minimum beside the global one within [-2 pi, 2 pi].

    Ever shallower minima follow outside of that interval.

    >>> damped_sine().minima.round(4).tolist()
    [[-1.4289], [4.3058]]
    """
    x = np.array([-1.4288700112140770, 4.305801413119223])
    envelope = np.exp(-(x**2) / 20)
    return make_surface(
        "damped_sine",
        _damped_sine,
        [0.0],
        bounds=(-2 * np.pi, 2 * np.pi),
        minima=x[:, None],
        values=np.sin(x) * envelope,
        hessians=envelope * ((x**2 / 100 - 1.1) * np.sin(x) - x / 5 * np.cos(x)),
    )


def _damped_sine(x):
    return jnp.sin(x[0]) * jnp.exp(-(x[0] ** 2) / 20)
