"""What is put around a whole optimizer, by name: the wrappers that a config may list under ``around``."""

from collections.abc import Callable

from gradlab.core.storage import store, with_residuals
from gradlab.optimizers.mechanic import mechanize
from gradlab.optimizers.msam import msam
from gradlab.optimizers.primal_averaging import primal_averaging
from gradlab.optimizers.schedule_free import schedule_free
from gradlab.optimizers.sharpness import asam
from gradlab.transforms.guard import apply_if_finite
from gradlab.transforms.layout import flatten
from gradlab.transforms.lookahead import lookahead_in_state, snoo
from gradlab.transforms.multi_steps import multi_steps
from gradlab.transforms.skip import skip_spikes

WRAPPERS: dict[str, Callable] = {
    factory.__name__: factory
    for factory in (
        apply_if_finite,
        asam,
        flatten,
        lookahead_in_state,
        mechanize,
        msam,
        multi_steps,
        primal_averaging,
        schedule_free,
        skip_spikes,
        snoo,
        store,
        with_residuals,
    )
}
"""Functions from an optimizer, their first argument, and numbers to an optimizer."""
