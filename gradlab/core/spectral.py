r"""Maps of a matrix's singular values: X = U diag(s) V^H becomes U diag(f(s)) V^H.

One step of Newton and Schulz's iteration, with A = X X^H::

    X = a X + (b A + c A^2) X          f(s) = a s + b s^3 + c s^5

A sequence of such steps, after X is scaled so that no singular value exceeds one, brings all of them near one without
a decomposition.  Coefficients that make the slope at zero large, not the limit exact, need the fewest steps.
"""

import jax
import jax.numpy as jnp

from gradlab.core.decompositions import svd
from gradlab.core.numerics import abs_sq, finite_or_nan, safe_sqrt

POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845749493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""Best polynomials one after another for singular values in [1e-3, 1], arXiv 2505.16932."""

STANDARD = (3.4445, -4.7750, 2.0315)

AOL_MARGIN = 0.85


def _contracted(row: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    """The polynomial of ``factor * s``."""
    a, b, c = row
    return a * factor, b * factor**3, c * factor**5


COEFFICIENTS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "standard": (STANDARD,) * 5,
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": POLAR_EXPRESS[:5],
    "polar_express_8": POLAR_EXPRESS,
    "cans": (
        (8.4703, -25.1081, 18.6293),
        (4.1828, -3.1087, 0.5806),
        (3.9619, -2.9541, 0.5630),
        (3.2866, -2.4647, 0.5074),
        (2.2737, -1.6447, 0.4162),
    ),
    "deepseek": (STANDARD,) * 8 + ((2.0, -1.5, 0.5),) * 2,
    "simple_12": ((2.0, -1.5, 0.5),) * 12,
    "polar_express_safe": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
    "aol_4": (
        _contracted((4.0098, -7.0585, 2.4635), AOL_MARGIN),
        (3.4585, -5.5479, 2.5959),
        (2.7573, -3.2939, 1.4254),
        (2.7215, -3.0494, 1.3169),
    ),
    "cubic_5": (
        (3.3656576, -3.3420992, 0.0),
        (2.5744352, -1.4957376, 0.0),
        (2.5368962, -1.4312570, 0.0),
        (2.4418906, -1.2764040, 0.0),
        (2.2230472, -0.9630650, 0.0),
    ),
}
"""By name: Jordan's, the quintic of Optax's preset ``'dion'``, Polar Express with five and eight steps, CANS
(2506.10935), DeepSeek-V4's eight and two, twelve of the plainest, Polar Express with a margin of two percent,
Turbo-Muon's (2512.04632), cubics (2606.00371).  Turbo-Muon's as published maps one to -0.994, so that a matrix of rank
one points uphill: here its first polynomial sees singular values of at most 0.85, and all of it is positive."""

SCALINGS = ("frobenius", "spectral", "aol", "schatten")


def newton_schulz(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """The iteration on one matrix.

    Args:
      x: (m, n), m <= n for speed, with singular values of at most one.
      coefficients: (steps, 3), a row for each step.

    >>> x = jnp.diag(jnp.array([1.0, 0.1]))
    >>> newton_schulz(x, jnp.array(COEFFICIENTS['polar_express_8'])).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def step(x, row):
        a, b, c = row
        gram = x @ x.mT.conj()
        return a * x + (b * gram + c * (gram @ gram)) @ x, None

    return jax.lax.scan(step, x, coefficients)[0]


def newton_schulz_bf16(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """`newton_schulz` in bfloat16, as Jordan's and PyTorch's code run it on accelerators: entries are off by 0.01.

    Complex matrices, of which there are none in bfloat16, stay what they are.

    >>> x = jnp.diag(jnp.array([1.0, 0.1]))
    >>> gap = newton_schulz_bf16(x, jnp.array(COEFFICIENTS['polar_express_8'])) - jnp.eye(2)
    >>> gap.dtype == x.dtype, bool(jnp.max(jnp.abs(gap)) < 0.02)
    (True, True)
    """
    if jnp.iscomplexobj(x):
        return newton_schulz(x, coefficients)
    return newton_schulz(x.astype(jnp.bfloat16), coefficients.astype(jnp.bfloat16)).astype(x.dtype)


def gram_newton_schulz(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """`newton_schulz` by products of (m, m) alone, but for four: cheaper if n is much larger than m.

    The polynomials are accumulated in X X^H, which is computed anew before the third: rounding grows with its
    conditioning, so the products have the full precision of their dtype, and float16 or bfloat16 will not do.

    >>> x = jnp.diag(jnp.array([1.0, 0.1]))
    >>> gram_newton_schulz(x, jnp.array(COEFFICIENTS['polar_express_8'])).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def step(carry, row):
        gram, product = carry
        a, b, c = row
        z = b * gram + c * (gram @ gram)
        half = gram @ z + a * gram
        return (z @ half + a * half, product @ z + a * product), None

    with jax.default_matmul_precision("highest"):
        for rows in (coefficients[:2], coefficients[2:]):
            start = (x @ x.mT.conj(), jnp.eye(x.shape[0], dtype=x.dtype))
            x = jax.lax.scan(step, start, rows)[0][1] @ x
    return x


def polar_factor(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """The limit of the iterations, by a decomposition: U V^H, without the directions in which x is zero.

    >>> polar_factor(jnp.diag(jnp.array([5.0, -0.1, 0.0])), jnp.zeros((0, 3))).round(3).diagonal().tolist()
    [1.0, -1.0, 0.0]
    """
    del coefficients
    u, s, vh = svd(finite_or_nan(x))
    is_zero = s <= max(x.shape) * jnp.finfo(s.dtype).eps * s[0]
    return (u * jnp.where(is_zero, 0, 1)) @ vh


SPECTRAL_MAPS = {
    "newton_schulz": newton_schulz,
    "newton_schulz_bf16": newton_schulz_bf16,
    "gram_newton_schulz": gram_newton_schulz,
    "svd": polar_factor,
}
"""Functions of a bounded wide matrix and of coefficients, by name."""


def bounded(x: jax.Array, eps: jax.Array, scaling: str = "frobenius") -> jax.Array:
    """The matrix, scaled so that no singular value exceeds one; zero stays zero.

    Args:
      x: (m, n).
      eps: added to the divisor; for the last two the square of the least divisor.
      scaling: ``'frobenius'`` divides by the norm of all entries, ``'spectral'`` by the largest singular value
        (a decomposition), ``'schatten'`` by the root of the norm of X X^H (arXiv 2506.10935), ``'aol'`` each row by
        the root of its sum of ``|X X^H|`` (arXiv 2512.04632), which changes the singular vectors.

    >>> bounded(jnp.array([[3.0, 4.0]]), 0.0).round(3).tolist()
    [[0.6, 0.8]]
    """
    if scaling == "frobenius":
        return x / (_length(x) + eps)
    if scaling == "spectral":
        return x / (jnp.linalg.norm(finite_or_nan(x), ord=2) + eps)
    gram = x @ x.mT.conj()
    if scaling == "schatten":
        return x / jnp.sqrt(jnp.maximum(_length(gram), eps))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.abs(gram), axis=1, keepdims=True), eps))


def _length(x: jax.Array) -> jax.Array:
    return safe_sqrt(jnp.sum(abs_sq(x)))
