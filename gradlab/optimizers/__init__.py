"""Optimizers, one family a file, and the registry that contracts, configs, the command line and the docs read."""

from collections.abc import Callable

from gradlab.core.transform import Transform
from gradlab.optimizers.adagrad import adadelta, adagrad, scale_by_adadelta, scale_by_rss
from gradlab.optimizers.adam import adam, adamw, nadam, nadamw, scale_by_adam
from gradlab.optimizers.adamax import adamax, adamaxw, scale_by_adamax
from gradlab.optimizers.amsgrad import amsgrad, scale_by_amsgrad
from gradlab.optimizers.momentum import ema_sgd, heavy_ball, momentum_sgd, nesterov_sgd
from gradlab.optimizers.per_weight import delta_bar_delta, rprop, scale_by_delta_bar_delta, scale_by_rprop
from gradlab.optimizers.radam import radam, scale_by_radam
from gradlab.optimizers.rmsprop import rmsprop, rmsprop_nesterov, scale_by_rms, scale_by_stddev
from gradlab.optimizers.sadam import sadam, samsgrad, scale_by_sadam, scale_by_samsgrad
from gradlab.optimizers.sgd import sgd
from gradlab.optimizers.sign import lion, scale_by_lion, scale_by_sign, sign_sgd, signum

_FACTORIES = [
    sgd,
    heavy_ball,
    momentum_sgd,
    ema_sgd,
    nesterov_sgd,
    delta_bar_delta,
    rprop,
    adagrad,
    adadelta,
    rmsprop,
    rmsprop_nesterov,
    adam,
    adamw,
    nadam,
    nadamw,
    amsgrad,
    adamax,
    adamaxw,
    radam,
    sadam,
    samsgrad,
    lion,
    sign_sgd,
    signum,
]

REGISTRY: dict[str, Callable[..., Transform]] = {factory.__name__: factory for factory in _FACTORIES}

__all__ = [
    *REGISTRY,
    "REGISTRY",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_amsgrad",
    "scale_by_delta_bar_delta",
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
