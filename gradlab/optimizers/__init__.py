"""Optimizers, one family a file, and the table of them.

Contracts, configs, the command line and the documentation read `ROWS` and `REGISTRY`: adding an optimizer is adding a
row.
"""

from collections.abc import Callable
from typing import NamedTuple

from gradlab.core.transform import Transform
from gradlab.optimizers.adagrad import adadelta, adagrad, scale_by_adadelta, scale_by_rss
from gradlab.optimizers.adam import adam, adamw, nadam, nadamw, scale_by_adam
from gradlab.optimizers.adamax import adamax, adamaxw, scale_by_adamax
from gradlab.optimizers.amsgrad import amsgrad, scale_by_amsgrad
from gradlab.optimizers.bfgs import bfgs, scale_by_bfgs
from gradlab.optimizers.conjugate_gradient import nonlinear_cg, scale_by_conjugate_gradient
from gradlab.optimizers.lbfgs import lbfgs, scale_by_lbfgs
from gradlab.optimizers.momentum import ema_sgd, heavy_ball, momentum_sgd, nesterov_sgd
from gradlab.optimizers.per_weight import delta_bar_delta, rprop, scale_by_delta_bar_delta, scale_by_rprop
from gradlab.optimizers.radam import radam, scale_by_radam
from gradlab.optimizers.rmsprop import rmsprop, rmsprop_nesterov, scale_by_rms, scale_by_stddev
from gradlab.optimizers.sadam import sadam, samsgrad, scale_by_sadam, scale_by_samsgrad
from gradlab.optimizers.sgd import sgd
from gradlab.optimizers.sign import lion, scale_by_lion, scale_by_sign, sign_sgd, signum


class Row(NamedTuple):
    """One optimizer."""

    factory: Callable[..., Transform]
    rule: str  # the direction u of p = p - learning_rate * u, in the symbols of its module
    paper: str  # arXiv id, or author and year
    parity: str = ""  # what its steps are compared with in the tests, beside its NumPy oracle
    differs: str = ""  # from that, and why


ROWS = [
    Row(sgd, "g, or the trace", "Robbins 1951", "Optax, PyTorch"),
    Row(heavy_ball, "velocity = momentum * velocity - learning_rate * g", "Polyak 1964", "closed form"),
    Row(momentum_sgd, "trace = momentum * trace + (1 - dampening) * g", "Sutskever 2013", "PyTorch"),
    Row(ema_sgd, "ema = momentum * ema + (1 - momentum) * g", "Polyak 1964", "Optax"),
    Row(nesterov_sgd, "velocity with g at the point ahead", "Nesterov 1983", "closed form"),
    Row(delta_bar_delta, "a step size for each weight, + kappa or * (1 - phi)", "Jacobs 1988"),
    Row(rprop, "a step size for each weight, * 1.2 or * 0.5", "Riedmiller 1993", "PyTorch", "Optax: one call late"),
    Row(adagrad, "g / sqrt(sum of g^2)", "Duchi 2011", "Optax, PyTorch"),
    Row(adadelta, "g * rms(u) / rms(g)", "1212.5701", "Optax, PyTorch"),
    Row(rmsprop, "g / sqrt(nu)", "Hinton 2012", "Optax, PyTorch"),
    Row(rmsprop_nesterov, "g / sqrt(nu), g at the point ahead", "Goodfellow 2016, 8.6", "closed form"),
    Row(adam, "mu_hat / (sqrt(nu_hat) + eps)", "1412.6980", "Optax, PyTorch"),
    Row(adamw, "adam + weight_decay * p", "1711.05101", "Optax, PyTorch"),
    Row(nadam, "adam, mu one step ahead", "Dozat 2016", "Optax"),
    Row(nadamw, "nadam + weight_decay * p", "Dozat 2016", "Optax"),
    Row(amsgrad, "mu_hat / sqrt(max of nu_hat)", "1904.09237", "Optax, PyTorch"),
    Row(adamax, "mu_hat / max(b2 * nu, |g|)", "1412.6980", "Optax, PyTorch"),
    Row(adamaxw, "adamax + weight_decay * p", "1412.6980", "Optax"),
    Row(radam, "adam, rectified by the variance of 1 / sqrt(nu)", "1908.03265", "Optax, PyTorch"),
    Row(sadam, "mu_hat / softplus(sqrt(nu_hat))", "1908.00700"),
    Row(samsgrad, "mu_hat / softplus(sqrt(max of nu_hat))", "1908.00700"),
    Row(lion, "sign(b1 * mu + (1 - b1) * g)", "2302.06675", "Optax"),
    Row(sign_sgd, "sign(g)", "1802.04434", "Optax"),
    Row(signum, "sign(mu)", "1802.04434", "Optax"),
    Row(lbfgs, "H g, H from the last pairs; line search", "Liu 1989", "Optax, SciPy"),
    Row(bfgs, "H g, H dense; line search", "Nocedal 1999, 6.1", "SciPy"),
    Row(nonlinear_cg, "g + beta * u; line search", "Nocedal 1999, 5.2", "SciPy"),
]

REGISTRY: dict[str, Callable[..., Transform]] = {row.factory.__name__: row.factory for row in ROWS}

__all__ = [
    *REGISTRY,
    "REGISTRY",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_amsgrad",
    "scale_by_bfgs",
    "scale_by_conjugate_gradient",
    "scale_by_delta_bar_delta",
    "scale_by_lbfgs",
    "scale_by_lion",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_sadam",
    "scale_by_samsgrad",
    "scale_by_sign",
    "scale_by_stddev",
]
