"""Every schedule as a plain function of one step in Python floats, written from its formula; no jax, no arrays."""

import math


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
    share_of_peak = {"linear": 1 - u, "1-sqrt": 1 - math.sqrt(u), "cosine": math.cos(math.pi * u / 2) ** 2}[shape]
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
