"""Every schedule as a plain function of one step in Python floats, written from its formula; no jax, no arrays."""

import math

from tests.oracles.modern_adam import ademamix_alpha, ademamix_b3


def constant_schedule(step, value):
    return value


def inverse_time_schedule(step, init_value, rate):
    return init_value / (1 + rate * step)


def inverse_sqrt_schedule(step, peak_value, warmup_steps, init_value=None):
    if step >= warmup_steps:
        return peak_value / math.sqrt(step / warmup_steps)
    if init_value is None:
        return peak_value
    return init_value + (peak_value - init_value) * step / warmup_steps


def multiply_schedule(step, init_value, factor=0.9):
    value = init_value
    for _ in range(step):
        value *= factor
    return value


def step_decay_schedule(step, init_value, factor, every):
    value = init_value
    for update in range(1, step + 1):
        if update % every == 0:
            value *= factor
    return value


def exponential_decay(
    step, init_value, transition_steps, decay_rate, transition_begin=0, staircase=False, end_value=None
):
    value = init_value
    if step > transition_begin:
        periods = (step - transition_begin) / transition_steps
        value = init_value * math.exp(math.log(decay_rate) * (math.floor(periods) if staircase else periods))
    if end_value is None:
        return value
    return max(value, end_value) if decay_rate < 1 else min(value, end_value)


def linear_schedule(step, init_value, end_value, transition_steps, transition_begin=0):
    return polynomial_schedule(step, init_value, end_value, 1, transition_steps, transition_begin)


def linear_floor_schedule(step, init_value, floor, tau):
    if step >= tau:
        return floor
    return (1 - step / tau) * init_value + (step / tau) * floor


def polynomial_schedule(step, init_value, end_value, power, transition_steps, transition_begin=0):
    if step < transition_begin:
        return init_value
    if step >= transition_begin + transition_steps:
        return end_value
    return (init_value - end_value) * (1 - (step - transition_begin) / transition_steps) ** power + end_value


def cosine_decay_schedule(step, init_value, decay_steps, alpha=0.0, exponent=1.0):
    if step >= decay_steps:
        return alpha * init_value
    return init_value * (alpha + (1 - alpha) * math.cos(math.pi * step / decay_steps / 2) ** (2 * exponent))


def rex_schedule(step, init_value, decay_steps):
    return 0.0 if step >= decay_steps else init_value * 2 * (decay_steps - step) / (2 * decay_steps - step)


def warmup_constant_schedule(step, init_value, peak_value, warmup_steps):
    if step >= warmup_steps:
        return peak_value
    return init_value + (peak_value - init_value) * step / warmup_steps


def warmup_cosine_decay_schedule(step, init_value, peak_value, warmup_steps, decay_steps, end_value=0.0, exponent=1.0):
    if step < warmup_steps:
        return warmup_constant_schedule(step, init_value, peak_value, warmup_steps)
    if step >= decay_steps:
        return end_value
    angle = math.pi * (step - warmup_steps) / (decay_steps - warmup_steps)
    return end_value + (peak_value - end_value) * ((1 + math.cos(angle)) / 2) ** exponent


def warmup_exponential_decay_schedule(step, init_value, peak_value, warmup_steps, *decay, **named_decay):
    if step < warmup_steps:
        return warmup_constant_schedule(step, init_value, peak_value, warmup_steps)
    return exponential_decay(step - warmup_steps, peak_value, *decay, **named_decay)


def wsd_schedule(step, init_value, peak_value, warmup_steps, stable_steps, decay_steps, end_value=0.0, shape="linear"):
    cooldown_begin = warmup_steps + stable_steps
    if step < cooldown_begin:
        return warmup_constant_schedule(step, init_value, peak_value, warmup_steps)
    if step >= cooldown_begin + decay_steps:
        return end_value
    u = (step - cooldown_begin) / decay_steps
    share_of_peak = {
        "linear": 1 - u,
        "1-sqrt": 1 - math.sqrt(u),
        "cosine": math.cos(math.pi * u / 2) ** 2,
        "mirror-cosine": 2 - 2 * u - math.cos(math.pi * u / 2) ** 2,
        "1-square": 1 - u**2,
    }[shape]
    return share_of_peak * peak_value + (1 - share_of_peak) * end_value


def piecewise_constant_schedule(step, init_value, boundaries_and_scales=None):
    value = init_value
    for boundary, scale in (boundaries_and_scales or {}).items():
        if step >= boundary:
            value *= scale
    return value


def piecewise_interpolate_schedule(step, interpolate_type, init_value, boundaries_and_scales=None):
    knots = [(0, init_value)]
    for boundary in sorted(boundaries_and_scales or {}):
        knots.append((boundary, knots[-1][1] * boundaries_and_scales[boundary]))
    return through_knots(step, interpolate_type, knots)


def through_knots(step, interpolate_type, knots):
    for (begin, start), (end, target) in zip(knots, knots[1:], strict=False):
        if begin <= step < end:
            u = (step - begin) / (end - begin)
            way = u if interpolate_type == "linear" else math.sin(math.pi * u / 2) ** 2
            return start + (target - start) * way
    return knots[-1][1]


def linear_onecycle_schedule(
    step, transition_steps, peak_value, pct_start=0.3, pct_final=0.85, div_factor=25.0, final_div_factor=1e4
):
    first = peak_value / div_factor
    top, back = int(pct_start * transition_steps), int(pct_final * transition_steps)
    knots = [(0, first), (top, peak_value), (back, first), (transition_steps, first / final_div_factor)]
    return through_knots(step, "linear", knots)


def cosine_onecycle_schedule(step, transition_steps, peak_value, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
    first, top = peak_value / div_factor, int(pct_start * transition_steps)
    knots = [(0, first), (top, peak_value), (transition_steps, first / final_div_factor)]
    return through_knots(step, "cosine", knots)


def untuned_exponential_schedule(step, peak_value, b2=0.999):
    return peak_value * (1 - math.exp(-(1 - b2) * (step + 1)))


def untuned_linear_schedule(step, peak_value, b2=0.999):
    return peak_value if step + 1 >= 2 / (1 - b2) else peak_value * (step + 1) * (1 - b2) / 2


def rectified_schedule(step, peak_value, b2=0.999):
    t = step + 1
    longest = 2 / (1 - b2) - 1
    rho = longest - 2 * t * b2**t / (1 - b2**t)
    if rho <= 4:
        return 0.0
    variances = ((rho - 4) * (rho - 2) / rho, (longest - 4) * (longest - 2) / longest)
    return peak_value * math.sqrt(variances[0] / variances[1])


def power_schedule(step, peak_value, scale, exponent=-0.51):
    return min(peak_value, scale * math.pow(step + 1, exponent))


def power_cooldown_schedule(step, peak_value, end_step, scale, power=1.2):
    return 0.0 if step >= end_step else min(peak_value, scale * math.pow(end_step - step, power))


def growing_decay_schedule(step, exponent=0.8):
    return 1 - 1 / math.pow(step + 1, exponent)


def infinite_cosine_schedule(
    step, peak_value, constant_value, end_value, warmup_steps, cosine_steps, stable_steps, decay_steps
):
    if step < warmup_steps:
        return peak_value * step / warmup_steps
    step -= warmup_steps
    if step < cosine_steps:
        height = math.cos(0.5 * math.pi * step / cosine_steps) ** 2
        return constant_value + (peak_value - constant_value) * height
    step -= cosine_steps + stable_steps
    if step < 0:
        return constant_value
    fraction = min(step / decay_steps, 1)
    return math.exp((1 - fraction) * math.log(constant_value) + fraction * math.log(end_value))


def cyclic_schedule(step, low_value, high_value, half_period, decay=1.0):
    height = high_value - low_value
    while step >= 2 * half_period:
        step -= 2 * half_period
        height *= decay
    way = step / half_period
    return low_value + height * (way if way < 1 else 2 - way)


def onecycle_momentum_schedule(step, transition_steps, high_value=0.95, low_value=0.85, pct_start=0.3):
    knots = [(0, high_value), (int(pct_start * transition_steps), low_value), (transition_steps, high_value)]
    return through_knots(step, "cosine", knots)


def chebyshev_schedule(step, smallest, largest, period):
    order = [0]
    while len(order) < period:
        order = [place for first in order for place in (first, 2 * len(order) - 1 - first)]
    angle = (2 * order[step % period] + 1) * math.pi / (2 * period)
    return 1 / ((largest + smallest) / 2 - (largest - smallest) / 2 * math.cos(angle))


def sgdr_schedule(step, cosine_kwargs):
    for cycle in cosine_kwargs[:-1]:
        if step < cycle["decay_steps"]:
            return warmup_cosine_decay_schedule(step, **cycle)
        step -= cycle["decay_steps"]
    return warmup_cosine_decay_schedule(step, **cosine_kwargs[-1])


def join_schedules(step, schedules, boundaries):
    begin, piece = 0, schedules[0]
    for schedule, boundary in zip(schedules[1:], boundaries, strict=True):
        if step >= boundary:
            begin, piece = boundary, schedule
    return piece(step - begin)


def ademamix_alpha_schedule(step, alpha, steps, first=1):
    return ademamix_alpha(step + first, alpha, steps)


def ademamix_b3_schedule(step, b1, b3, steps, first=1):
    return ademamix_b3(step + first, b1, b3, steps)
