"""Stages of a chain that are no optimizer."""

from gradlab.transforms.accumulate import apply_every, ema, trace
from gradlab.transforms.clip import adaptive_grad_clip, clip, clip_by_block_rms, clip_by_global_norm
from gradlab.transforms.conditional import conditionally_mask, conditionally_transform
from gradlab.transforms.decay import add_decayed_weights, subtract_decayed_weights
from gradlab.transforms.guard import apply_if_finite, zero_nans
from gradlab.transforms.inject import inject_hyperparams, inject_stateful_hyperparams
from gradlab.transforms.multi_steps import (
    MultiSteps,
    MultiStepsState,
    has_updated,
    multi_steps,
    skip_large_updates,
    skip_not_finite,
)
from gradlab.transforms.noise import add_noise
from gradlab.transforms.route import by_path, freeze, masked, partition, selective_transform, set_to_zero
from gradlab.transforms.scaling import descend, scale, scale_by_learning_rate, scale_by_schedule
from gradlab.transforms.stateless import stateless, stateless_with_tree_map, with_extra_args_support

TRANSFORMS = {
    factory.__name__: factory
    for factory in (
        adaptive_grad_clip,
        add_decayed_weights,
        add_noise,
        apply_every,
        clip,
        clip_by_block_rms,
        clip_by_global_norm,
        ema,
        freeze,
        scale,
        set_to_zero,
        subtract_decayed_weights,
        trace,
        zero_nans,
    )
}
"""The stages that a config may put before or after its optimizer, by name."""

__all__ = [
    "TRANSFORMS",
    *TRANSFORMS,
    "MultiSteps",
    "MultiStepsState",
    "apply_if_finite",
    "by_path",
    "conditionally_mask",
    "conditionally_transform",
    "descend",
    "has_updated",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
    "masked",
    "multi_steps",
    "partition",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "selective_transform",
    "skip_large_updates",
    "skip_not_finite",
    "stateless",
    "stateless_with_tree_map",
    "with_extra_args_support",
]
