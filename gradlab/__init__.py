"""gradlab: gradient-based optimizers in JAX as values."""
from gradlab.core.transform import transform, adopt
from gradlab.core.rule import static
from gradlab.core.compose import chain, named_chain, identity
from gradlab.core.update import apply_updates, eval_params
from gradlab.core.values import hyperparams, replace, describe, population
from gradlab.optimizers.adam import adam, adamw, scale_by_adam, nadam, nadamw
from gradlab.transforms.scaling import scale, scale_by_learning_rate, scale_by_schedule
