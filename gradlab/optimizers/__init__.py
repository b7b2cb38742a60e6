"""Optimizers, one family a file, and the table of them.

Contracts, configs, the command line and the documentation read `ROWS` and `REGISTRY`: adding an optimizer is adding a
row.
"""

from collections.abc import Callable
from typing import NamedTuple

from gradlab.core.layouts import SplitDimensionNumbers
from gradlab.core.transform import Transform
from gradlab.optimizers.adafactor import adafactor
from gradlab.optimizers.adagrad import adadelta, adagrad, scale_by_adadelta, scale_by_rss
from gradlab.optimizers.adam import adam, adamw, scale_by_adam
from gradlab.optimizers.adam_mini import adam_mini, adam_mini_blocks, scale_by_adam_mini
from gradlab.optimizers.adamax import adamax, adamaxw, scale_by_adamax
from gradlab.optimizers.adamc import adamc
from gradlab.optimizers.adamuon import adamuon, normalize_entries
from gradlab.optimizers.adamw_atan2 import adamw_atan2, scale_by_adam_atan2
from gradlab.optimizers.adan import adan, scale_by_adan
from gradlab.optimizers.ademamix import ademamix, scale_by_ademamix
from gradlab.optimizers.adgd import adgd, barzilai_borwein, scale_by_adgd, scale_by_barzilai_borwein
from gradlab.optimizers.adopt import adopt, scale_by_adopt
from gradlab.optimizers.amsgrad import amsgrad, scale_by_amsgrad
from gradlab.optimizers.apollo import apollo, apollo_mini, scale_by_apollo
from gradlab.optimizers.belief import acprop, adabelief, scale_by_acprop, scale_by_belief
from gradlab.optimizers.bfgs import bfgs, scale_by_bfgs
from gradlab.optimizers.came import came, scale_by_came
from gradlab.optimizers.cocob import cocob, scale_by_cocob
from gradlab.optimizers.column_normalized import normalize_columns, scale_sgd
from gradlab.optimizers.conjugate_gradient import nonlinear_cg, scale_by_conjugate_gradient
from gradlab.optimizers.dadapt import dadapt_adamw
from gradlab.optimizers.dion import dion, scale_by_dion
from gradlab.optimizers.dog import dog, dowg, scale_by_distance_over_gradients, scale_by_dog, scale_by_dowg
from gradlab.optimizers.factored import scale_by_factored_rms
from gradlab.optimizers.fira import fira, scale_by_fira
from gradlab.optimizers.galore import galore, scale_by_galore
from gradlab.optimizers.grams import grams, scale_by_grams
from gradlab.optimizers.hessian_diagonal import gauss_newton_bartlett, hutchinson_estimator_diag_hessian
from gradlab.optimizers.hyperball import adamh, muonh, soaph
from gradlab.optimizers.hypergradient import hypergradient, hypergradient_sgd
from gradlab.optimizers.kfac import Factors, kfac, scale_by_kfac
from gradlab.optimizers.kl_shampoo import kl_shampoo, scale_by_kl_shampoo
from gradlab.optimizers.kl_soap import kl_soap, scale_by_kl_soap
from gradlab.optimizers.laprop import laprop
from gradlab.optimizers.layerwise import fromage, lamb, lars
from gradlab.optimizers.lbfgs import lbfgs, scale_by_lbfgs
from gradlab.optimizers.madgrad import madgrad, scale_by_madgrad
from gradlab.optimizers.mars import mars_adamw, scale_by_mars_adam
from gradlab.optimizers.matrices import flax_matrices, matrices_by_path
from gradlab.optimizers.mechanic import mechanize
from gradlab.optimizers.momentum import ema_sgd, heavy_ball, momentum_sgd, nesterov_sgd
from gradlab.optimizers.momo import momo, momo_adam
from gradlab.optimizers.msam import msam
from gradlab.optimizers.muon import MuonDimensionNumbers, muon, scale_by_muon, scale_by_shape
from gradlab.optimizers.muon_squared import muon_squared
from gradlab.optimizers.muonclip import muonclip
from gradlab.optimizers.nadam import nadam, nadamw, scale_by_nadam
from gradlab.optimizers.newton import newton, saddle_free_newton, scale_by_newton, scale_by_saddle_free_newton
from gradlab.optimizers.newton_cg import newton_cg, scale_by_newton_cg
from gradlab.optimizers.noisy import noisy_sgd
from gradlab.optimizers.normuon import normalize_outputs, normuon
from gradlab.optimizers.novograd import novograd, scale_by_novograd
from gradlab.optimizers.optimistic import (
    optimistic_adam,
    optimistic_adam_v2,
    optimistic_gradient_descent,
    scale_by_optimistic_gradient,
)
from gradlab.optimizers.orthogonal import orthogonalize
from gradlab.optimizers.per_weight import delta_bar_delta, rprop, scale_by_delta_bar_delta, scale_by_rprop
from gradlab.optimizers.polyak import polyak_sgd, scale_by_polyak
from gradlab.optimizers.primal_averaging import primal_averaging
from gradlab.optimizers.privacy import differentially_private_aggregate, dpsgd
from gradlab.optimizers.prodigy import prodigy
from gradlab.optimizers.psgd import psgd_kron, scale_by_psgd_kron
from gradlab.optimizers.radam import radam, scale_by_radam
from gradlab.optimizers.rmsprop import rmsprop, rmsprop_nesterov, scale_by_rms, scale_by_stddev
from gradlab.optimizers.sadam import sadam, samsgrad, scale_by_sadam, scale_by_samsgrad
from gradlab.optimizers.schedule_free import schedule_free, schedule_free_eval_params
from gradlab.optimizers.schedule_free_bases import schedule_free_adamw, schedule_free_radam, schedule_free_sgd
from gradlab.optimizers.schedule_free_plus import schedule_free_plus
from gradlab.optimizers.scion import scale_by_lmo, scion
from gradlab.optimizers.scion_init import scion_init
from gradlab.optimizers.sgd import sgd
from gradlab.optimizers.shampoo import scale_by_shampoo, shampoo
from gradlab.optimizers.sharpness import asam, normalize, sam
from gradlab.optimizers.sign import lion, scale_by_lion, scale_by_sign, sign_sgd, signum
from gradlab.optimizers.simplified_ademamix import scale_by_simplified_ademamix, simplified_ademamix
from gradlab.optimizers.sinkgd import scale_by_sinkhorn, sinkgd
from gradlab.optimizers.sm3 import scale_by_sm3, sm3
from gradlab.optimizers.soap import scale_by_soap, soap
from gradlab.optimizers.soap_muon import scale_by_whitened_momentum, soap_muon
from gradlab.optimizers.sophia import scale_by_sophia, sophia
from gradlab.optimizers.splus import scale_by_splus, splus
from gradlab.optimizers.stable_adamw import stable_adamw
from gradlab.optimizers.tiger import scale_by_tiger, tiger
from gradlab.optimizers.yogi import scale_by_yogi, yogi


class Row(NamedTuple):
    """One optimizer."""

    factory: Callable[..., Transform]
    rule: str  # the direction u of p = p - learning_rate * u, in the symbols of its module
    paper: str  # arXiv id, or author and year
    parity: str = ""  # what its steps are compared with in the tests, beside its NumPy oracle
    differs: str = ""  # from that, and why


ROWS = [
    Row(sgd, "g, or the trace", "Robbins 1951", "Optax, PyTorch"),
    Row(heavy_ball, "velocity = momentum * velocity - learning_rate * g", "Polyak 1964", "closed form"),
    Row(momentum_sgd, "trace = momentum * trace + (1 - dampening) * g", "Sutskever 2013", "PyTorch"),
    Row(ema_sgd, "ema = momentum * ema + (1 - momentum) * g", "Polyak 1964", "Optax"),
    Row(nesterov_sgd, "velocity with g at the point ahead", "Nesterov 1983", "closed form"),
    Row(delta_bar_delta, "a step size for each weight, + kappa or * (1 - phi)", "Jacobs 1988"),
    Row(rprop, "a step size for each weight, * 1.2 or * 0.5", "Riedmiller 1993", "PyTorch", "Optax: one call late"),
    Row(adagrad, "g / sqrt(sum of g^2)", "Duchi 2011", "Optax, PyTorch"),
    Row(adadelta, "g * rms(u) / rms(g)", "1212.5701", "Optax, PyTorch"),
    Row(rmsprop, "g / sqrt(nu)", "Hinton 2012", "Optax, PyTorch"),
    Row(rmsprop_nesterov, "g / sqrt(nu), g at the point ahead", "Goodfellow 2016, 8.6", "closed form"),
    Row(adam, "mu_hat / (sqrt(nu_hat) + eps)", "1412.6980", "Optax, PyTorch"),
    Row(adamw, "adam + weight_decay * p", "1711.05101", "Optax, PyTorch"),
    Row(nadam, "adam, mu one step ahead", "Dozat 2016", "Optax, PyTorch"),
    Row(nadamw, "nadam + weight_decay * p", "Dozat 2016", "Optax, PyTorch"),
    Row(amsgrad, "mu_hat / sqrt(max of nu_hat)", "1904.09237", "Optax, PyTorch"),
    Row(adamax, "mu_hat / max(b2 * nu, |g|)", "1412.6980", "Optax, PyTorch"),
    Row(adamaxw, "adamax + weight_decay * p", "1412.6980", "Optax"),
    Row(radam, "adam, rectified by the variance of 1 / sqrt(nu)", "1908.03265", "Optax, PyTorch"),
    Row(
        adafactor,
        "g / sqrt(rows * columns), bounded, * rms(p)",
        "1804.04235",
        "Optax, PyTorch",
        "Optax: its decay is float32 under x64 too",
    ),
    Row(came, "mu / sqrt(how far u strays from mu), factored", "2307.02047"),
    Row(adam_mini, "mu_hat / sqrt(mean of nu_hat over a block)", "2406.16793"),
    Row(
        galore,
        "P direction(P^T g), P the leading singular vectors",
        "2403.03507",
        "Optax",
        "Optax: projectors of size 0, which Orbax cannot save",
    ),
    Row(sm3, "g / sqrt(min of row and column bounds)", "1901.11150", "Optax", "Optax: no scalar parameters"),
    Row(
        madgrad,
        "(1 - momentum) * (p - x0 + s / cbrt(grad_sum_sq))",
        "2101.11075",
        "Optax",
        "Optax: weights float32 under x64 too",
    ),
    Row(sadam, "mu_hat / softplus(sqrt(nu_hat))", "1908.00700"),
    Row(samsgrad, "mu_hat / softplus(sqrt(max of nu_hat))", "1908.00700"),
    Row(adabelief, "mu_hat / sqrt(average of |g - mu|^2)", "2010.07468", "Optax"),
    Row(
        acprop,
        "g / sqrt(average of |g - mu|^2 before it)",
        "2110.05454",
        "Optax",
        "Optax: the error from the average before g, against its own documentation; form='optax'",
    ),
    Row(yogi, "mu_hat / sqrt(nu_hat), nu by steps of |g|^2", "Zaheer 2018", "Optax"),
    Row(
        adan,
        "(mu_hat + b2 * average of g - g_prev) / sqrt(nu_hat)",
        "2208.06677",
        "Optax",
        "Optax: weight 1 - b2 of the difference, b2 read as the paper's; form='optax'",
    ),
    Row(lamb, "(adam + weight_decay * p) * |p| / |it|, layer by layer", "1904.00962", "Optax"),
    Row(lars, "trace of g * |p| / |g|, layer by layer", "1708.03888", "Optax"),
    Row(fromage, "g * |p| / |g|, then p / sqrt(1 + learning_rate^2)", "2002.03432", "Optax"),
    Row(novograd, "sum of g / sqrt(average of |g|^2), layer by layer", "1905.11286", "Optax"),
    Row(optimistic_gradient_descent, "g + beta * (g - g_prev)", "1711.00141", "Optax"),
    Row(optimistic_adam, "nadam + optimism / learning_rate * its difference", "1711.00141", "Optax"),
    Row(optimistic_adam_v2, "nadam + beta * its difference", "1711.00141", "Optax"),
    Row(noisy_sgd, "g + sqrt(eta / (1 + count)^gamma) * normal", "1511.06807", "Optax"),
    Row(
        ademamix,
        "(mu_hat + alpha * slow mu) / (sqrt(nu_hat) + eps)",
        "2409.03137",
        "Optax",
        "mu_dtype: Optax widens all averages at the first update",
    ),
    Row(
        simplified_ademamix,
        "(m + alpha * g) / (sqrt(n_hat) + eps), m = b1 * m + g",
        "2502.02431",
        "Optax",
        "complex: Optax takes g^2 for |g|^2",
    ),
    Row(adopt, "mu of g / max(sqrt(nu before g), eps)", "2411.02853", "Optax", "authors: no decay on the first call"),
    Row(laprop, "mu of learning_rate * g / (sqrt(nu_hat) + eps)", "2002.04839"),
    Row(stable_adamw, "adamw / max(1, rms of g / sqrt(nu_hat))", "2304.13013"),
    Row(adamw_atan2, "a * atan2(mu_hat, b * sqrt(nu_hat)) + weight_decay * p", "2407.05872"),
    Row(adamc, "adam + weight_decay * learning_rate / max_learning_rate * p", "2506.02285"),
    Row(mars_adamw, "adamw of g + gamma * b1 / (1 - b1) * (g - previous)", "2411.10438"),
    Row(grams, "sign(g) * |adam|", "2412.17107"),
    Row(tiger, "sign(mu) + weight_decay * p", "Su 2023"),
    Row(lion, "sign(b1 * mu + (1 - b1) * g)", "2302.06675", "Optax"),
    Row(sign_sgd, "sign(g)", "1802.04434", "Optax"),
    Row(signum, "sign(mu)", "1802.04434", "Optax"),
    Row(
        schedule_free_sgd,
        "g at y; z = z - learning_rate * u; y = b1 * (mean of z) + (1 - b1) * z",
        "2405.15682",
        "Optax",
    ),
    Row(
        schedule_free_adamw, "g / (sqrt(nu_hat) + eps) + weight_decay * y, as schedule_free_sgd", "2405.15682", "Optax"
    ),
    Row(schedule_free_plus, "schedule_free around adam, Polyak's step size", "2605.19095"),
    Row(schedule_free_radam, "schedule_free_adamw, rectified as radam", "2405.15682"),
    Row(dog, "max_dist / sqrt(sum of |g|^2) * g", "2302.12022", "Optax"),
    Row(dowg, "sq_dist / sqrt(sum of sq_dist * |g|^2) * g", "2305.16284", "Optax"),
    Row(prodigy, "adam times d, from <g, p0 - p>", "2306.06101", "Optax", "zero gradients: d stays, not NaN"),
    Row(
        dadapt_adamw,
        "adamw times d, from <g, grad_sum>",
        "2301.07733",
        "Optax",
        "zero gradients: d stays, not NaN",
    ),
    Row(cocob, "coin bets of each weight on its gradients", "1705.07795", "Optax"),
    Row(momo, "min(learning_rate, gap / |mu|^2) * mu", "2305.07583", "Optax"),
    Row(momo_adam, "min(learning_rate, gap / <mu, u>) * u, u that of adam", "2305.07583", "Optax"),
    Row(polyak_sgd, "min((value - f_min) / |g|^2, 1) * g", "2002.10542", "Optax", "scaling: it divides the step by it"),
    Row(
        muon,
        "orthogonalised mu * sqrt(max(1, out / in)) for matrices, adamw for the others",
        "Jordan 2024, 2502.16982",
        "Optax",
    ),
    Row(normuon, "muon's step over the root of its average square for each output", "2510.05491"),
    Row(adamuon, "orthogonalised sign(mu) over the root of its average square for each entry", "2507.11005"),
    Row(muon_squared, "muon of mu / sqrt(nu)", "2604.09967"),
    Row(adamh, "|p| * adam / |adam|, then p on the sphere of its first norm", "2606.16899"),
    Row(muonh, "|p| * muon / |muon|, then p on the sphere of its first norm", "2606.16899"),
    Row(soaph, "soap's step along the sphere of the first norm", "2606.16899"),
    Row(scion, "radius * the extreme point of a norm's ball along mu + weight_decay * p", "2502.07529"),
    Row(soap, "adam of G in the eigenbases of averaged G G^T and G^T G", "2409.11321"),
    Row(kl_shampoo, "L^-1/2 mu R^-1/2, each of G whitened by the other", "2509.03378"),
    Row(kl_soap, "adam of G in the eigenbases of kl_shampoo", "2509.03378"),
    Row(soap_muon, "muon's step of mu whitened in soap's bases", "Vyas 2026"),
    Row(psgd_kron, "P mu_hat, P a Kronecker product fitted to cov(mu_hat)^-1/2", "2402.04553, 2402.11858"),
    Row(fira, "P adam(P^T G) + (G - P P^T G) at the lengths of adam's columns, their growth limited", "2410.01623"),
    Row(apollo, "G times the lengths of adam's columns in a random subspace, their growth limited", "2412.05270"),
    Row(apollo_mini, "G times the length of adam's step in a random direction, its growth limited", "2412.05270"),
    Row(sinkgd, "g, its outputs and inputs brought to equal lengths in turn", "2502.06742"),
    Row(scale_sgd, "g over the size of its columns; in the last layer its average", "2506.16659"),
    Row(dion, "P Q^T * sqrt(out / in), of rank r, Q from the momentum M, P from M Q", "2504.05295"),
    Row(shampoo, "L^-1/4 mu R^-1/4, L = mean of G G^T, R of G^T G; as long as adam's step", "1802.09568, 2309.06497"),
    Row(splus, "2 / (m + n) * (sign of mu in soap's bases + weight_decay * p)", "2506.07254"),
    Row(adgd, "min(sqrt(1 + growth) * step, |dp| / (2 * |dg|)) * g", "1910.09529"),
    Row(barzilai_borwein, "|dp|^2 / <dp, dg> * g", "Barzilai 1988"),
    Row(hypergradient_sgd, "g, its rate moved by <g, g before>", "1703.04782"),
    Row(sophia, "clip(mu_hat / (gamma * diagonal of H))", "2305.14342", "Optax"),
    Row(newton, "(H + damping * I)^-1 g", "Goodfellow 2016, 8.8", "closed form"),
    Row(saddle_free_newton, "(|H| + damping * I)^-1 g", "1406.2572", "closed form"),
    Row(newton_cg, "H^-1 g by conjugate gradients, up to negative curvature", "Steihaug 1983", "closed form"),
    Row(lbfgs, "H g, H from the last pairs; line search", "Liu 1989", "Optax, SciPy"),
    Row(bfgs, "H g, H dense; line search", "Nocedal 1999, 6.1", "SciPy"),
    Row(nonlinear_cg, "g + beta * u; line search", "Nocedal 1999, 5.2", "SciPy"),
]

REGISTRY: dict[str, Callable[..., Transform]] = {row.factory.__name__: row.factory for row in ROWS}

__all__ = [
    *REGISTRY,
    "REGISTRY",
    "Factors",
    "MuonDimensionNumbers",
    "adam_mini_blocks",
    "asam",
    "differentially_private_aggregate",
    "dpsgd",
    "flax_matrices",
    "kfac",
    "matrices_by_path",
    "orthogonalize",
    "SplitDimensionNumbers",
    "gauss_newton_bartlett",
    "hutchinson_estimator_diag_hessian",
    "hypergradient",
    "mechanize",
    "msam",
    "muonclip",
    "normalize",
    "normalize_entries",
    "normalize_columns",
    "normalize_outputs",
    "primal_averaging",
    "sam",
    "scale_by_acprop",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adam_atan2",
    "scale_by_adam_mini",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adgd",
    "scale_by_adopt",
    "scale_by_amsgrad",
    "scale_by_apollo",
    "scale_by_barzilai_borwein",
    "scale_by_belief",
    "scale_by_bfgs",
    "scale_by_came",
    "scale_by_cocob",
    "scale_by_conjugate_gradient",
    "scale_by_delta_bar_delta",
    "scale_by_dion",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
    "scale_by_factored_rms",
    "scale_by_fira",
    "scale_by_galore",
    "scale_by_grams",
    "scale_by_kfac",
    "scale_by_kl_shampoo",
    "scale_by_kl_soap",
    "scale_by_lbfgs",
    "scale_by_lion",
    "scale_by_lmo",
    "scale_by_madgrad",
    "scale_by_mars_adam",
    "scale_by_muon",
    "scale_by_nadam",
    "scale_by_newton",
    "scale_by_newton_cg",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_polyak",
    "scale_by_psgd_kron",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_sadam",
    "scale_by_saddle_free_newton",
    "scale_by_samsgrad",
    "scale_by_shampoo",
    "scale_by_sign",
    "scale_by_shape",
    "scale_by_simplified_ademamix",
    "scale_by_sinkhorn",
    "scale_by_sm3",
    "scale_by_soap",
    "scale_by_sophia",
    "scale_by_splus",
    "scale_by_stddev",
    "scale_by_tiger",
    "scale_by_whitened_momentum",
    "scale_by_yogi",
    "schedule_free",
    "schedule_free_eval_params",
    "scion_init",
]
