"""Values that depend on the step: every number in one is a leaf, the horizon included."""

from gradlab.schedules.anytime import (
    constant_schedule,
    exponential_decay,
    inverse_sqrt_schedule,
    inverse_time_schedule,
    multiply_schedule,
    step_decay_schedule,
)
from gradlab.schedules.cycles import cosine_onecycle_schedule, linear_onecycle_schedule, sgdr_schedule
from gradlab.schedules.decay import (
    cosine_decay_schedule,
    linear_floor_schedule,
    linear_schedule,
    polynomial_schedule,
    rex_schedule,
)
from gradlab.schedules.growth import Seesaw, seesaw_schedules
from gradlab.schedules.piecewise import join_schedules, piecewise_constant_schedule, piecewise_interpolate_schedule
from gradlab.schedules.power import (
    growing_decay_schedule,
    infinite_cosine_schedule,
    power_cooldown_schedule,
    power_schedule,
)
from gradlab.schedules.slow_average import ademamix_alpha_schedule, ademamix_b3_schedule
from gradlab.schedules.theory import RobbinsMonro, robbins_monro
from gradlab.schedules.untuned import rectified_schedule, untuned_exponential_schedule, untuned_linear_schedule
from gradlab.schedules.warmup import (
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    wsd_schedule,
)
from gradlab.schedules.waves import chebyshev_schedule, cyclic_schedule, onecycle_momentum_schedule

SCHEDULES = {
    factory.__name__: factory
    for factory in (
        ademamix_alpha_schedule,
        ademamix_b3_schedule,
        chebyshev_schedule,
        constant_schedule,
        cosine_decay_schedule,
        cosine_onecycle_schedule,
        cyclic_schedule,
        exponential_decay,
        growing_decay_schedule,
        infinite_cosine_schedule,
        inverse_sqrt_schedule,
        inverse_time_schedule,
        join_schedules,
        linear_floor_schedule,
        linear_onecycle_schedule,
        linear_schedule,
        multiply_schedule,
        onecycle_momentum_schedule,
        piecewise_constant_schedule,
        piecewise_interpolate_schedule,
        polynomial_schedule,
        power_cooldown_schedule,
        power_schedule,
        rectified_schedule,
        rex_schedule,
        sgdr_schedule,
        step_decay_schedule,
        untuned_exponential_schedule,
        untuned_linear_schedule,
        warmup_constant_schedule,
        warmup_cosine_decay_schedule,
        warmup_exponential_decay_schedule,
        wsd_schedule,
    )
}
"""Every factory by its name."""

__all__ = ["SCHEDULES", "RobbinsMonro", "Seesaw", "robbins_monro", "seesaw_schedules", *SCHEDULES]
