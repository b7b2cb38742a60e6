"""Instruments: measurements of why an optimizer behaves as it does, on any loss of any tree of parameters.

Every instrument is a pure function of arrays that may be jitted and vmapped, and every estimate comes with its error.
"""

from gradlab.instruments.checks import OperatorErrors, check_loss, check_operator, operator_errors
from gradlab.instruments.operators import Operator, dense, fisher, ggn, hessian, preconditioned, restrict

__all__ = [
    "Operator",
    "OperatorErrors",
    "check_loss",
    "check_operator",
    "dense",
    "fisher",
    "ggn",
    "hessian",
    "operator_errors",
    "preconditioned",
    "restrict",
]
