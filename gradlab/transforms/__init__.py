"""Stages of a chain that are no optimizer."""

from gradlab.transforms.accumulate import ema, trace
from gradlab.transforms.backtracking import scale_by_backtracking_linesearch
from gradlab.transforms.clip import adaptive_grad_clip, clip, clip_by_block_rms, clip_by_global_norm
from gradlab.transforms.decay import add_decayed_weights, subtract_decayed_weights
from gradlab.transforms.guard import apply_if_finite, zero_nans
from gradlab.transforms.line_search import value_and_grad_from_state
from gradlab.transforms.noise import add_noise
from gradlab.transforms.route import by_path, freeze, masked, partition, set_to_zero
from gradlab.transforms.scaling import descend, scale, scale_by_learning_rate, scale_by_schedule
from gradlab.transforms.stateless import stateless, stateless_with_tree_map, with_extra_args_support
from gradlab.transforms.zoom_linesearch import scale_by_zoom_linesearch

TRANSFORMS = {
    factory.__name__: factory
    for factory in (
        adaptive_grad_clip,
        add_decayed_weights,
        add_noise,
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
    "apply_if_finite",
    "by_path",
    "descend",
    "masked",
    "partition",
    "scale_by_backtracking_linesearch",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "scale_by_zoom_linesearch",
    "stateless",
    "stateless_with_tree_map",
    "value_and_grad_from_state",
    "with_extra_args_support",
]
