"""MuonClip: Muon with the root mean square of AdamW's steps, and attention whose logits stay bounded."""

from typing import Any

from gradlab.core.compose import chain
from gradlab.core.transform import Transform
from gradlab.optimizers.muon import muon
from gradlab.transforms.qk_clip import qk_clip


def muonclip(
    learning_rate: Any,
    tau: Any = 100.0,
    *,
    query: str = "query",
    key: str = "key",
    consistent_rms: Any = 0.2,
    bias_correction: bool = False,
    muon_weight_dimension_numbers: Any = "flax",
    **others: Any,
) -> Transform:
    """MuonClip (Kimi Team 2025, arXiv 2507.20534): `muon`, then `qk_clip`.

    ``update`` needs ``max_logits``, the largest logits of each attention head; see `qk_clip`.

    Args:
      learning_rate: a number or a schedule; AdamW's.
      tau: the largest logit to be left alone, above zero.
      query, key: (static) as for `qk_clip`.
      consistent_rms, bias_correction, muon_weight_dimension_numbers, **others: as for `muon`.

    Raises:
      ValueError: as `muon` and `qk_clip`.

    >>> import jax.numpy as jnp
    >>> params = {'attention': {name: {'kernel': jnp.ones((1, 2, 1))} for name in ('query', 'key')}}
    >>> tx = muonclip(0.0, tau=25.0)
    >>> state, logits = tx.init(params), {'attention': jnp.array([100.0, 20.0])}
    >>> updates, _ = tx.update(params, state, params, max_logits=logits)
    >>> (params['attention']['key']['kernel'] + updates['attention']['key']['kernel']).ravel().tolist()
    [0.5, 1.0]
    """
    of_muon = muon(
        learning_rate,
        consistent_rms=consistent_rms,
        bias_correction=bias_correction,
        muon_weight_dimension_numbers=muon_weight_dimension_numbers,
        **others,
    )
    return chain(of_muon, qk_clip(tau, query=query, key=key))
