"""What modifies gradients and updates, tensor by tensor in plain float64 loops written from the papers; no jax."""

import numpy as np


def cautious(u, g, floor=1e-3):
    kept = [u_i if u_i * g_i > 0 else 0.0 for u_i, g_i in zip(u.ravel(), g.ravel(), strict=True)]
    share = sum(u_i * g_i > 0 for u_i, g_i in zip(u.ravel(), g.ravel(), strict=True)) / u.size
    return np.array(kept).reshape(u.shape) / max(share, floor)


def cautious_decay(u, p, weight_decay):
    out = [u_i + weight_decay * p_i * (u_i * p_i >= 0) for u_i, p_i in zip(u.ravel(), p.ravel(), strict=True)]
    return np.array(out).reshape(u.shape)


def grokfast(gradients, decay, factor):
    """The filtered gradients of all steps; the average begins as the first gradient."""
    average, out = gradients[0], []
    for g in gradients:
        average = average if not out else decay * average + (1 - decay) * g
        out.append(g + factor * average)
    return out


def orthograd(g, p):
    rest = g - np.vdot(g, p) / np.vdot(p, p) * p
    return rest * np.sqrt(np.sum(g**2)) / np.sqrt(np.sum(rest**2))


def zclip(norms, decay, threshold, warmup):
    """The norms after clipping."""
    out = list(norms[:warmup])
    mean, variance = float(np.mean(out)), float(np.var(out))
    for n in norms[warmup:]:
        z = (n - mean) / np.sqrt(variance)
        clipped = mean + np.sqrt(variance) * threshold**2 / z if z > threshold else n
        mean = decay * mean + (1 - decay) * clipped
        variance = decay * variance + (1 - decay) * (clipped - mean) ** 2
        out.append(clipped)
    return out


def adagc(gradients, decay, ratio, warmup, max_norm):
    """The clipped gradients of all steps, each a list of tensors."""
    bounds, out = [np.inf] * len(gradients[0]), []
    for step, tensors in enumerate(gradients):
        whole = np.sqrt(sum(np.sum(g**2) for g in tensors))
        clipped = []
        for i, g in enumerate(tensors):
            n = np.sqrt(np.sum(g**2))
            if step < warmup:
                g = g * min(1, max_norm / whole)
                bounds[i] = min(bounds[i], np.sqrt(np.sum(g**2)))
            else:
                g = g * min(1, ratio * bounds[i] / n)
                bounds[i] = decay * bounds[i] + (1 - decay) * np.sqrt(np.sum(g**2))
            clipped.append(g)
        out.append(clipped)
    return out
