"""Flax's training states with the optimizer as data: `TrainState` for Linen, `nnx_optimizer` for NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from flax.nnx.training.optimizer import to_opt_state
from flax.training import train_state

from gradlab.core.compose import identity
from gradlab.core.transform import from_optax
from gradlab.core.update import apply_updates, eval_params
from gradlab.training.savable import savable


class TrainState(train_state.TrainState):
    """Flax's TrainState whose optimizer ``tx`` is a pytree node.

    Flax keeps ``tx`` out of the tree, as structure: three learning rates are three traces there, and one here.
    States vmap, checkpoint and restore with their hyperparameters.

    >>> import jax, jax.numpy as jnp, gradlab
    >>> state = TrainState.create(apply_fn=None, params={'w': jnp.ones(2)}, tx=gradlab.sgd(0.5))
    >>> state.apply_gradients(grads={'w': jnp.ones(2)}).params['w'].tolist(), jax.tree.leaves(state.tx)
    ([0.5, 0.5], [0.5])
    """

    tx: optax.GradientTransformation = struct.field(pytree_node=True)

    def apply_gradients(self, *, grads: Any, extra: dict[str, Any] | None = None, **kwargs: Any) -> "TrainState":
        """The state after one step.

        Args:
          grads: gradients, a tree like ``params``.
          extra: extra arguments of ``tx.update``: ``{'value': loss, 'value_fn': ...}``.
          **kwargs: fields to replace besides, as in Flax.
        """
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, **(extra or {}))
        params = apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **kwargs)

    @classmethod
    def create(cls, *, apply_fn: Any, params: Any, tx: optax.GradientTransformation, **kwargs: Any) -> "TrainState":
        """A state at step 0; any Optax transform is adopted."""
        tx = savable(from_optax(tx))
        return cls(step=0, apply_fn=apply_fn, params=params, tx=tx, opt_state=tx.init(params), **kwargs)

    @property
    def eval_params(self) -> Any:
        """The weights to evaluate at; see `gradlab.eval_params`."""
        return eval_params(self.tx, self.opt_state, self.params)


class NNXOptimizer(nnx.Optimizer):
    """Flax's ``nnx.Optimizer`` whose optimizer ``tx`` is data.

    ``nnx.Optimizer`` keeps ``tx`` as a static attribute: under ``nnx.jit`` each learning rate is a trace, and
    hyperparameters that are arrays (lanes of a sweep) are refused.  Here they are leaves of the module.

    >>> import jax.numpy as jnp, gradlab
    >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> optimizer = NNXOptimizer(model, gradlab.adam(1e-2), wrt=nnx.Param)
    >>> grads = nnx.grad(lambda model: jnp.mean(model(jnp.ones((4, 2))) ** 2))(model)
    >>> _ = optimizer.update(model, grads)
    >>> int(optimizer.step[...]), round(gradlab.hyperparams(optimizer.tx)['learning_rate'].item(), 4)
    (1, 0.01)
    """

    def __init__(self, model: nnx.Module, tx: optax.GradientTransformation, *, wrt: Any):
        tx = from_optax(tx)
        super().__init__(model, identity(), wrt=wrt)
        self.tx = nnx.data(jax.tree.map(jnp.asarray, tx))
        self.opt_state = nnx.data(to_opt_state(tx.init(nnx.state(model, wrt))))

    def update(self, model: nnx.Module, grads: Any, /, **kwargs: Any) -> Any:
        """One step: writes to the model's variables and to those of the state.

        Flax's own would take a buffer apart that is kept as several arrays (``storage='int8'``).

        Args:
          model: the one the optimizer was made for.
          grads: gradients, as ``nnx.grad`` gives them.
          **kwargs: extra arguments of ``tx.update``.

        Returns:
          The updates, a tree like the model's parameters.
        """
        params, gradient = (nnx.as_pure(nnx.state(tree, self.wrt, graph=self.graph)) for tree in (model, grads))
        updates, opt_state = self.tx.update(gradient, nnx.as_pure(self.opt_state), params, **nnx.as_pure(kwargs))
        nnx.update(model, apply_updates(params, updates))
        is_variable = lambda node: isinstance(node, nnx.Variable)
        jax.tree.map(lambda held, new: held.set_value(new), self.opt_state, opt_state, is_leaf=is_variable)
        self.step[...] += 1
        return updates
