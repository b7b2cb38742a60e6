"""Instruments: measurements of why an optimizer behaves as it does, on any loss of any tree of parameters.

Every instrument is a pure function of arrays that may be jitted and vmapped, and every estimate comes with its error.
"""

from gradlab.instruments.checks import OperatorErrors, check_loss, check_operator, operator_errors
from gradlab.instruments.connectivity import Barrier, Curve, barrier, bezier, connect
from gradlab.instruments.critical import KINDS, CriticalPoint, classify
from gradlab.instruments.density import Fraction, Quadrature, density, fraction, log_density, quadrature, slq
from gradlab.instruments.depth import (
    ClipEffect,
    Profile,
    TimeProfile,
    backprop_profile,
    clip_effect,
    layer_taps,
    time_profile,
)
from gradlab.instruments.directions import PathDirections, path_directions, random_directions, random_walk_shares
from gradlab.instruments.edge import Edge, edge_of
from gradlab.instruments.eigen import Eigs, extreme
from gradlab.instruments.estimate import Estimate
from gradlab.instruments.flow import Flow, FlowDistance, flow_distance, gradient_flow
from gradlab.instruments.health import Health, Sizes, Units, health, leaf_names, sizes, units
from gradlab.instruments.histogram import Histogram, bin_edges, log_histogram
from gradlab.instruments.jacobian import MatrixPowers, SingularValues, jacobian_singular_values, matrix_powers
from gradlab.instruments.landscape import PathLosses, Projection, interpolate, line, plane, project, project_path
from gradlab.instruments.lr_range import LrRange, lr_range
from gradlab.instruments.noise import CurvedNoise, Noise, batch_variance, curved_noise, noise
from gradlab.instruments.noise_stream import (
    NoiseStream,
    StreamedNoise,
    TwoBatch,
    noise_stream,
    stream_noise,
    streamed_noise,
    two_batch,
    unbiased,
)
from gradlab.instruments.operators import Operator, dense, fisher, ggn, hessian, preconditioned, restrict
from gradlab.instruments.rate_suggestions import Suggestions, smooth, suggest_rates
from gradlab.instruments.rates import Fit, RateFit, fit_rate
from gradlab.instruments.running import Running, merge, observe, running, standard_error, variance
from gradlab.instruments.saddle_free import SaddleReport, saddle_report
from gradlab.instruments.stability import Gauge, adam_diagonal, gauge, threshold
from gradlab.instruments.step_probe import StepProbe, step_probe
from gradlab.instruments.symmetry import Alignment, align, chain, log10_orders, permute, rescale
from gradlab.instruments.taps import linen_taps, nnx_taps
from gradlab.instruments.trace import diagonal, trace

__all__ = [
    "Alignment",
    "Barrier",
    "ClipEffect",
    "CriticalPoint",
    "Curve",
    "CurvedNoise",
    "Edge",
    "Eigs",
    "Estimate",
    "Fit",
    "Flow",
    "FlowDistance",
    "Fraction",
    "Gauge",
    "Health",
    "Histogram",
    "KINDS",
    "LrRange",
    "MatrixPowers",
    "Noise",
    "NoiseStream",
    "Operator",
    "OperatorErrors",
    "PathDirections",
    "PathLosses",
    "Profile",
    "Projection",
    "Quadrature",
    "RateFit",
    "Running",
    "SaddleReport",
    "SingularValues",
    "Sizes",
    "StepProbe",
    "StreamedNoise",
    "Suggestions",
    "TimeProfile",
    "TwoBatch",
    "Units",
    "adam_diagonal",
    "align",
    "backprop_profile",
    "barrier",
    "batch_variance",
    "bezier",
    "bin_edges",
    "chain",
    "check_loss",
    "check_operator",
    "classify",
    "clip_effect",
    "connect",
    "curved_noise",
    "dense",
    "density",
    "diagonal",
    "edge_of",
    "extreme",
    "fisher",
    "fit_rate",
    "flow_distance",
    "fraction",
    "gauge",
    "ggn",
    "gradient_flow",
    "health",
    "hessian",
    "interpolate",
    "jacobian_singular_values",
    "layer_taps",
    "leaf_names",
    "line",
    "linen_taps",
    "log10_orders",
    "log_density",
    "log_histogram",
    "lr_range",
    "matrix_powers",
    "merge",
    "nnx_taps",
    "noise",
    "noise_stream",
    "observe",
    "operator_errors",
    "path_directions",
    "permute",
    "plane",
    "preconditioned",
    "project",
    "project_path",
    "quadrature",
    "random_directions",
    "random_walk_shares",
    "rescale",
    "restrict",
    "running",
    "saddle_report",
    "sizes",
    "slq",
    "smooth",
    "standard_error",
    "step_probe",
    "stream_noise",
    "streamed_noise",
    "suggest_rates",
    "threshold",
    "time_profile",
    "trace",
    "two_batch",
    "unbiased",
    "units",
    "variance",
]
