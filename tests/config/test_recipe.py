import jax
import pytest

import gradlab
from gradlab.config.parts import WRAPPER, read_part
from gradlab.config.recipe import Recipe
from gradlab.optimizers.wrappers import WRAPPERS

RATE = {
    "schedule": "warmup_cosine_decay_schedule",
    "init_value": 0,
    "peak_value": 1e-2,
    "warmup_steps": 2,
    "decay_steps": 9,
}
CLIPS = [{"name": "clip", "max_delta": 5.0}, {"name": "zero_nans"}, {"name": "clip", "max_delta": 1.0}]


def test_stages_stand_in_order():
    recipe = Recipe(
        {"name": "sgd", "learning_rate": 0.1}, before=CLIPS[:2], after=[{"name": "scale", "step_size": 2.0}]
    )
    assert [line.partition("(")[0].strip() for line in gradlab.describe(recipe()).splitlines()] == [
        "clip",
        "zero_nans",
        *[line.partition("(")[0].strip() for line in gradlab.describe(gradlab.sgd(0.1)).splitlines()],
        "scale",
    ]


def test_without_stages_it_is_the_optimizer_itself():
    made, direct = Recipe({"name": "adam", "learning_rate": 0.1})(), gradlab.adam(0.1)
    assert jax.tree.structure(made) == jax.tree.structure(direct)


def test_values_go_to_their_places():
    recipe = Recipe({"name": "sgd", "learning_rate": RATE}, before=CLIPS)
    values = {"optimizer.learning_rate.peak_value": 0.5, "optimizer.momentum": 0.9, "before.clip_2.max_delta": 7.0}
    numbers = gradlab.hyperparams(recipe(**values))
    assert numbers["learning_rate.peak_value"] == 0.5
    assert numbers["learning_rate.warmup_steps"] == 2.0
    assert 0.9 in numbers.values()
    assert sorted(value for name, value in numbers.items() if name.endswith("max_delta")) == [5.0, 7.0]


def test_the_recipe_is_not_changed():
    recipe = Recipe({"name": "sgd", "learning_rate": RATE}, before=CLIPS)
    names = recipe.names()
    recipe(**{"optimizer.learning_rate.peak_value": 0.5, "before.clip.max_delta": 7.0})
    assert RATE["peak_value"] == 1e-2 and CLIPS[0]["max_delta"] == 5.0 and recipe.names() == names


def test_a_number_may_replace_a_schedule():
    recipe = Recipe({"name": "sgd", "learning_rate": RATE})
    assert gradlab.hyperparams(recipe(**{"optimizer.learning_rate": 0.25}))["learning_rate"] == 0.25


def test_values_may_be_traced():
    recipe = Recipe({"name": "sgd", "learning_rate": RATE})
    lanes = jax.vmap(lambda peak: recipe(**{"optimizer.learning_rate.peak_value": peak}))(jax.numpy.arange(3.0))
    assert gradlab.hyperparams(lanes)["learning_rate.peak_value"].tolist() == [0.0, 1.0, 2.0]


def test_names_are_all_places():
    names = Recipe({"name": "sgd", "learning_rate": RATE}, before=CLIPS).names()
    assert {"optimizer.learning_rate", "optimizer.learning_rate.peak_value", "optimizer.nesterov"} < set(names)
    assert {"before.clip.max_delta", "before.clip_2.max_delta", "before.zero_nans.name"} < set(names)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("before.2.max_delta", "before.clip_2.max_delta"),
        ("before.clip.max_delta", "before.clip.max_delta"),
        ("before.3.max_delta", "before.3.max_delta"),
        ("optimizer.b1", "optimizer.b1"),
        ("task.0", "task.0"),
    ],
)
def test_stages_may_be_counted(path, name):
    assert Recipe({"name": "sgd"}, before=CLIPS).name_of(path) == name


def test_wrappers_stand_around_everything_the_outermost_last():
    around = [{"name": "skip_spikes", "window": 8}, {"name": "multi_steps", "every_k_schedule": 2}]
    recipe = Recipe({"name": "sgd", "learning_rate": 0.1}, before=CLIPS[:1], around=around)
    direct = gradlab.multi_steps(gradlab.skip_spikes(gradlab.chain(gradlab.clip(5.0), gradlab.sgd(0.1)), 8), 2)
    assert gradlab.describe(recipe()) == gradlab.describe(direct)
    assert {"around.skip_spikes.threshold", "around.multi_steps.every_k_schedule"} <= set(recipe.names())
    changed = recipe(**{"around.skip_spikes.threshold": 3.0, "optimizer.learning_rate": 0.2})
    assert gradlab.hyperparams(changed)["threshold"] == 3.0
    assert recipe.name_of("around.1.every_k_schedule") == "around.multi_steps.every_k_schedule"


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_goes_downhill(name):
    given = {"schedule_free": {"learning_rate": 0.1}, "apply_if_finite": {"max_consecutive_errors": 3}}
    given |= {"multi_steps": {"every_k_schedule": 1}, "store": {"storage": "bfloat16"}}
    part = read_part(WRAPPER, {"name": name, **given.get(name, {})})
    tx = Recipe({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}, around=[part])()
    loss = lambda p: (p**2).sum()
    params, state = jax.numpy.ones(3, "float32"), tx.init(jax.numpy.ones(3, "float32"))
    for _ in range(4):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)
        params = gradlab.apply_updates(params, updates)
    assert 0 < loss(params) < 3
