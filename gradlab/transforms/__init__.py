"""Stages of a chain that are no optimizer."""

from gradlab.transforms.accumulate import apply_every, ema, trace
from gradlab.transforms.average import ema_params, incremental_update, lawa, periodic_update, swa, tail_average
from gradlab.transforms.backtracking import scale_by_backtracking_linesearch
from gradlab.transforms.cautious import add_cautious_decayed_weights, cautious
from gradlab.transforms.clip import (
    adaptive_grad_clip,
    clip,
    clip_by_block_rms,
    clip_by_global_norm,
    unitwise_clip,
    unitwise_norm,
)
from gradlab.transforms.complex import split_real_and_imaginary
from gradlab.transforms.conditional import conditionally_mask, conditionally_transform
from gradlab.transforms.constrain import keep_params_nonnegative, project, project_box, project_l2_ball
from gradlab.transforms.decay import add_decayed_weights, subtract_decayed_weights
from gradlab.transforms.ema_nesterov import ema_nesterov
from gradlab.transforms.filter import grokfast, orthograd
from gradlab.transforms.guard import apply_if_finite, zero_nans
from gradlab.transforms.inject import inject_hyperparams, inject_stateful_hyperparams
from gradlab.transforms.layout import flatten
from gradlab.transforms.line_search import value_and_grad_from_state
from gradlab.transforms.lookahead import lookahead, lookahead_in_state, snoo
from gradlab.transforms.mars import mars_correction
from gradlab.transforms.monitor import measure_with_ema, monitor, snapshot
from gradlab.transforms.multi_steps import (
    MultiSteps,
    MultiStepsState,
    has_updated,
    multi_steps,
    skip_large_updates,
    skip_not_finite,
)
from gradlab.transforms.noise import add_noise
from gradlab.transforms.norm_control import floor_updates, hyperball, radial_brake, relative_updates
from gradlab.transforms.norms import (
    centralize,
    normalize,
    normalize_by_update_norm,
    scale_by_param_block_norm,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
)
from gradlab.transforms.parallel import graft, parallel
from gradlab.transforms.per_example import clipped_grad_sum, per_example_global_norm_clip, per_example_layer_norm_clip
from gradlab.transforms.plateau import reduce_on_plateau
from gradlab.transforms.qk_clip import qk_clip
from gradlab.transforms.route import freeze, masked, multi_transform, partition, selective_transform, set_to_zero
from gradlab.transforms.scaling import descend, scale, scale_by_learning_rate, scale_by_schedule
from gradlab.transforms.select import by_path
from gradlab.transforms.skip import skip_spikes
from gradlab.transforms.spikes import adagc, zclip
from gradlab.transforms.stateless import stateless, stateless_with_tree_map, with_extra_args_support
from gradlab.transforms.zoom_linesearch import scale_by_zoom_linesearch

TRANSFORMS = {
    factory.__name__: factory
    for factory in (
        adagc,
        adaptive_grad_clip,
        add_cautious_decayed_weights,
        add_decayed_weights,
        add_noise,
        apply_every,
        centralize,
        clip,
        clip_by_block_rms,
        clip_by_global_norm,
        ema,
        ema_nesterov,
        ema_params,
        floor_updates,
        freeze,
        grokfast,
        hyperball,
        keep_params_nonnegative,
        lawa,
        mars_correction,
        normalize,
        normalize_by_update_norm,
        orthograd,
        project_box,
        project_l2_ball,
        radial_brake,
        reduce_on_plateau,
        relative_updates,
        scale,
        scale_by_param_block_norm,
        scale_by_param_block_rms,
        scale_by_trust_ratio,
        set_to_zero,
        subtract_decayed_weights,
        swa,
        tail_average,
        trace,
        zclip,
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
    "cautious",
    "clipped_grad_sum",
    "conditionally_mask",
    "conditionally_transform",
    "descend",
    "flatten",
    "graft",
    "has_updated",
    "incremental_update",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
    "lookahead",
    "lookahead_in_state",
    "masked",
    "measure_with_ema",
    "monitor",
    "multi_steps",
    "multi_transform",
    "parallel",
    "partition",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "periodic_update",
    "project",
    "qk_clip",
    "scale_by_backtracking_linesearch",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "scale_by_zoom_linesearch",
    "selective_transform",
    "skip_large_updates",
    "skip_not_finite",
    "skip_spikes",
    "snapshot",
    "snoo",
    "split_real_and_imaginary",
    "stateless",
    "stateless_with_tree_map",
    "unitwise_clip",
    "unitwise_norm",
    "value_and_grad_from_state",
    "with_extra_args_support",
]
