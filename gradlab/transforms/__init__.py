"""Stages of a chain that are no optimizer."""

from gradlab.transforms.accumulate import ema, trace
from gradlab.transforms.clip import adaptive_grad_clip, clip, clip_by_block_rms, clip_by_global_norm
from gradlab.transforms.constrain import keep_params_nonnegative, project, project_box, project_l2_ball
from gradlab.transforms.decay import add_decayed_weights, subtract_decayed_weights
from gradlab.transforms.guard import apply_if_finite, zero_nans
from gradlab.transforms.layout import flatten
from gradlab.transforms.monitor import measure_with_ema, monitor, snapshot
from gradlab.transforms.noise import add_noise
from gradlab.transforms.route import by_path, freeze, masked, partition, set_to_zero
from gradlab.transforms.scaling import descend, scale, scale_by_learning_rate, scale_by_schedule
from gradlab.transforms.stateless import stateless, stateless_with_tree_map, with_extra_args_support

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
        keep_params_nonnegative,
        project_box,
        project_l2_ball,
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
    "flatten",
    "masked",
    "measure_with_ema",
    "monitor",
    "partition",
    "project",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "snapshot",
    "stateless",
    "stateless_with_tree_map",
    "with_extra_args_support",
]
