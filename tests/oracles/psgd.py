"""PSGD with Kronecker factors as a loop over one upright matrix, with its noise and its draws given."""

import numpy as np

DAMPING = float(np.finfo(np.float32).eps) ** 0.5


def is_due(count, since, largest=1.0, least=0.03, decay=0.001, flat=500.0):
    return since >= 1 / max(least, min(largest, np.exp(-decay * (count - flat))))


def estimate(s):
    """Of the spectral norm, by one power step from the longest column."""
    start = s[:, np.argmax(np.linalg.norm(s, axis=0))]
    once = s @ start
    return np.linalg.norm(s @ (once / np.linalg.norm(once)))


def triangular_step(q, gain, loss, rate):
    return q - rate * np.triu(gain - loss) @ q / estimate(gain + loss)


def diagonal_step(q, gain, loss, rate):
    gain, loss = np.diag(gain).real, np.diag(loss).real
    return q - rate * np.diag((gain - loss) / np.max(gain + loss)) @ q


def refit(ql, qr, h, v, rate, longest):
    """The factors after a fit, square matrices both, of which one for a side beyond ``longest`` is diagonal."""
    a = ql @ h @ qr.T
    b = np.linalg.inv(ql).conj().T @ v @ np.linalg.inv(qr).conj()
    step = lambda q: diagonal_step if len(q) > longest else triangular_step
    new_l = step(ql)(ql, a @ a.conj().T, b @ b.conj().T, rate)
    return new_l, step(qr)(qr, a.T @ a.conj(), b.T @ b.conj(), rate)


def towards_symmetry(q):
    """One step of a rotation from the left that makes the trace greater."""
    skew = q.conj().T - q
    if not np.any(skew):
        return q
    skew = skew / estimate(skew)
    once, twice = skew @ q, skew @ skew @ q
    gain, bend = np.trace(once).real, np.trace(twice).real
    a = min(0.125, -gain / bend) if bend < 0 else 0.125
    return q + a * (once + 0.5 * a * twice)


def refit_without_inverses(ql, qr, lipschitz, h, rate, longest):
    """The factors and their Lipschitz constants after a fit of the geometry 'pro'."""
    white = (ql.conj().T @ ql) @ h @ (qr.conj().T @ qr).T
    factors, constants = [], []
    for q, old, gram in ((ql, lipschitz[0], white @ white.conj().T), (qr, lipschitz[1], white.T @ white.conj())):
        is_diagonal, target = len(q) > longest, h.size / len(q)
        gram = np.diag(np.diag(gram)) if is_diagonal else gram
        now = target + (np.max(np.diag(gram).real) if is_diagonal else estimate(gram))
        constants.append(max(0.9 * old + 0.1 * now, now))
        q = q - rate / constants[-1] * (gram - target * np.eye(len(q))) @ q
        factors.append(q if is_diagonal else towards_symmetry(q))
    return *factors, constants


def psgd_kron(
    grads,
    p,
    rate,
    noises,
    balances,
    b1=0.9,
    precond_lr=0.1,
    init=1.0,
    damping=DAMPING,
    max_rms=1.1,
    decay=0.0,
    longest=8192,
    schedule=None,
    geometry="triangular",
):
    """The parameters after each step, and the steps that fitted."""
    m, n = p.shape
    ql, qr = np.sqrt(init) * np.eye(m, dtype=p.dtype), np.sqrt(init) * np.eye(n, dtype=p.dtype)
    average, since, lipschitz = np.zeros_like(p), 0, [0.0, 0.0]
    path, fits = [], []
    for t, (g, v, balance) in enumerate(zip(grads, noises, balances, strict=True), start=1):
        average = b1 * average + (1 - b1) * g
        mean = average / (1 - b1**t)
        since += 1
        if is_due(t, since, **(schedule or {})):
            since = 0
            fits.append(t)
            if np.any(mean):
                if balance:
                    left, right = np.abs(ql).max(), np.abs(qr).max()
                    common = np.sqrt(left * right)
                    ql, qr = ql * common / left, qr * common / right
                h = mean + damping * np.abs(mean).mean() * v
                if geometry == "pro":
                    ql, qr, lipschitz = refit_without_inverses(ql, qr, lipschitz, h, precond_lr, longest)
                else:
                    ql, qr = refit(ql, qr, h, v, precond_lr, longest)
        u = (ql.conj().T @ ql) @ mean @ (qr.conj().T @ qr).T
        u = u / max(1.0, np.sqrt(np.mean(np.abs(u) ** 2)) / max_rms)
        p = p - rate * (u + decay * p)
        path.append(p)
    return np.stack(path), fits
