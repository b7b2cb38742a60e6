import jax
import pytest

import gradlab
from gradlab.config.recipe import Recipe

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
