"""Instruments: measurements of why an optimizer behaves as it does, on any loss of any tree of parameters.

Every instrument is a pure function of arrays that may be jitted and vmapped, and every estimate comes with its error.
"""

from gradlab.instruments.checks import OperatorErrors, check_loss, check_operator, operator_errors
from gradlab.instruments.flow import Flow, FlowDistance, flow_distance, gradient_flow
from gradlab.instruments.health import Health, Sizes, Units, health, leaf_names, sizes, units
from gradlab.instruments.histogram import Histogram, bin_edges, log_histogram
from gradlab.instruments.lr_range import LrRange, lr_range
from gradlab.instruments.operators import Operator, dense, fisher, ggn, hessian, preconditioned, restrict
from gradlab.instruments.rate_suggestions import Suggestions, smooth, suggest_rates
from gradlab.instruments.rates import Fit, RateFit, fit_rate
from gradlab.instruments.running import Running, merge, observe, running, standard_error, variance
from gradlab.instruments.step_probe import StepProbe, step_probe

__all__ = [
    "Fit",
    "Flow",
    "FlowDistance",
    "Health",
    "Histogram",
    "LrRange",
    "Operator",
    "OperatorErrors",
    "RateFit",
    "Running",
    "Sizes",
    "StepProbe",
    "Suggestions",
    "Units",
    "bin_edges",
    "check_loss",
    "check_operator",
    "dense",
    "fisher",
    "fit_rate",
    "flow_distance",
    "ggn",
    "gradient_flow",
    "health",
    "hessian",
    "leaf_names",
    "log_histogram",
    "lr_range",
    "merge",
    "observe",
    "operator_errors",
    "preconditioned",
    "restrict",
    "running",
    "sizes",
    "smooth",
    "standard_error",
    "step_probe",
    "suggest_rates",
    "units",
    "variance",
]
