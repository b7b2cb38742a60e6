"""Every factory in the registries can be named in a config, and its arguments are those of its signature."""

import inspect

import chex
import jax
import jax.numpy as jnp
import pytest
from pydantic import ValidationError

import gradlab
from gradlab.config.parts import OPTIMIZER, SCHEDULE, TASK, TRANSFORM, checked_part, make_part, read_part
from gradlab.core.transform import is_transform
from gradlab.tasks import TASKS
from tests.contracts.cases import rate_of

RATE = {
    "schedule": "warmup_cosine_decay_schedule",
    "init_value": 0,
    "peak_value": 1e-2,
    "warmup_steps": 2,
    "decay_steps": 9,
}


def messages(kind, part):
    with pytest.raises(ValidationError) as caught:
        checked_part(kind, part)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


@pytest.mark.parametrize("name", gradlab.REGISTRY)
def test_every_optimizer_is_made_from_its_name_and_a_learning_rate(name):
    made = make_part(OPTIMIZER, checked_part(OPTIMIZER, {"name": name, rate_of(name): 1e-2}))
    direct = gradlab.REGISTRY[name](**{rate_of(name): 1e-2})
    assert jax.tree.structure(made) == jax.tree.structure(direct)
    chex.assert_trees_all_equal(jax.tree.leaves(made), jax.tree.leaves(direct))


@pytest.mark.parametrize("name", gradlab.REGISTRY)
def test_the_defaults_of_every_optimizer_are_legal_values(name):
    parameters = inspect.signature(gradlab.REGISTRY[name]).parameters.values()
    in_words = lambda value: not callable(value) and not is_transform(value)
    has_default = lambda item: item.default is not inspect.Parameter.empty and in_words(item.default)
    defaults = {item.name: item.default for item in parameters if has_default(item)}
    part = {"name": name, **defaults, rate_of(name): 0.1}
    assert checked_part(OPTIMIZER, part) == part


@pytest.mark.parametrize("name", TASKS)
def test_the_defaults_of_every_task_are_legal_values(name):
    parameters = inspect.signature(TASKS[name]).parameters.values()
    plain = {item.name: list(item.default) if isinstance(item.default, tuple) else item.default for item in parameters}
    assert read_part(TASK, {"name": name, **plain}) == {"name": name, **plain}


def test_a_schedule_stands_where_a_number_does():
    tx = make_part(OPTIMIZER, checked_part(OPTIMIZER, {"name": "sgd", "learning_rate": RATE}))
    arguments = {name: value for name, value in RATE.items() if name != "schedule"}
    expected = gradlab.sgd(gradlab.warmup_cosine_decay_schedule(**arguments))
    assert gradlab.hyperparams(tx) == gradlab.hyperparams(expected)


def test_schedules_nest():
    part = {
        "schedule": "join_schedules",
        "schedules": [RATE, {"schedule": "constant_schedule", "value": 0.5}],
        "boundaries": [9],
    }
    schedule = make_part(SCHEDULE, checked_part(SCHEDULE, part))
    assert float(schedule(2)) == pytest.approx(1e-2)
    assert float(schedule(20)) == 0.5


def test_a_mapping_from_steps_keeps_its_numbers():
    part = {"schedule": "piecewise_constant_schedule", "init_value": 1.0, "boundaries_and_scales": {10: 0.5, 20: 0.1}}
    assert float(make_part(SCHEDULE, checked_part(SCHEDULE, part))(15)) == 0.5


def test_a_tree_of_learning_rates():
    part = checked_part(OPTIMIZER, {"name": "sgd", "learning_rate": {"head": 0.5, "body": RATE}})
    tx = make_part(OPTIMIZER, part)
    params = {"head": jnp.ones(1), "body": jnp.ones(1)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["head"][0] == -0.5
    assert updates["body"][0] == 0.0


def test_a_bare_name_has_no_arguments():
    assert checked_part(TRANSFORM, "zero_nans") == {"name": "zero_nans"}


def test_names_of_dtypes_and_masks_are_strings():
    part = {"name": "adamw", "learning_rate": 0.1, "mu_dtype": "bfloat16", "mask": "kernel$"}
    tx = make_part(OPTIMIZER, checked_part(OPTIMIZER, part))
    state = tx.init({"kernel": jnp.ones(2)})
    assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state))


def test_whole_floats_are_whole_numbers():
    part = read_part(TASK, {"name": "chars", "max_characters": 1e4})
    assert part["max_characters"] == 10000 and isinstance(part["max_characters"], int)


def test_only_what_was_given_is_kept():
    assert read_part(OPTIMIZER, {"name": "adam", "learning_rate": 1}) == {"name": "adam", "learning_rate": 1}


@pytest.mark.parametrize(
    ("part", "where", "message"),
    [
        ("adm", "name", "unknown optimizer 'adm'; did you mean 'adam'? Known: 'sgd', "),
        ({"learning_rate": 1}, "name", "missing name of the optimizer; Known: 'sgd', "),
        ({"name": ["a"]}, "name", "unknown optimizer ['a']; Known: "),
        (3, "", "must be a mapping with a name and the arguments of the optimizer, got 3"),
        ({"name": "adamw"}, "learning_rate", "missing argument of adamw"),
        (
            {"name": "sgd", "learning_rate": "fast"},
            "learning_rate",
            "must be a number or a schedule, got the string 'fast'",
        ),
        ({"name": "sgd", "learning_rate": True}, "learning_rate", "must be a number or a schedule, got true"),
        ({"name": "sgd", "learning_rate": None}, "learning_rate", "must be a number or a schedule, got null"),
        (
            {"name": "sgd", "learning_rate": {"head": "x"}},
            "learning_rate.head",
            "must be a number or a schedule, got the string 'x'",
        ),
        ({"name": "sgd", "learning_rate": -1}, "learning_rate", "must be >= 0, got -1"),
        ({"name": "sgd", "learning_rate": float("nan")}, "learning_rate", "must be >= 0, got nan"),
        (
            {"name": "sgd", "learning_rate": 1, "nesterov": "no"},
            "nesterov",
            "must be true or false, got the string 'no'",
        ),
        ({"name": "sgd", "learning_rate": 1, "nesterov": 1}, "nesterov", "must be true or false, got 1"),
        ({"name": "radam", "learning_rate": 1, "eps_on": 3}, "eps_on", "must be a string, got 3"),
        ({"name": "radam", "learning_rate": 1, "eps_on": "n"}, "eps_on", "unknown eps_on 'n'; did you mean "),
        (
            {"name": "sgd", "learning_rate": {"schedule": "cosine_decay"}},
            "learning_rate.schedule",
            "unknown schedule 'cosine_decay'; did you mean 'cosine_decay_schedule'?",
        ),
        (
            {"name": "sgd", "learning_rate": RATE | {"warmup": 3}},
            "learning_rate.warmup",
            "unknown argument of warmup_cosine_decay_schedule; did you mean 'warmup_steps'?",
        ),
        (
            {"name": "sgd", "learning_rate": RATE | {"peak_value": "a"}},
            "learning_rate.peak_value",
            "must be a number or a schedule, got the string 'a'",
        ),
    ],
)
def test_a_bad_optimizer(part, where, message):
    found = messages(OPTIMIZER, part)
    assert list(found) == [where]
    assert found[where].startswith(message)


def test_lists_say_which_item():
    assert messages(TASK, {"name": "digits_mlp", "hidden": [64, "a"]}) == {
        "hidden.1": "must be a whole number, got the string 'a'"
    }
    part = {"schedule": "join_schedules", "schedules": [RATE, "b"], "boundaries": [9]}
    assert messages(SCHEDULE, part) == {"schedules.1": "must be a number or a schedule, got the string 'b'"}


def test_all_that_is_wrong_in_one_part():
    found = messages(OPTIMIZER, {"name": "adamw", "lerning_rate": 1, "b1": "x", "nesterov": 0})
    assert set(found) == {"lerning_rate", "b1", "nesterov", "learning_rate"}
    assert found["lerning_rate"].startswith("unknown argument of adamw; did you mean 'learning_rate'? Known: ")


def test_all_values_that_the_factory_refuses():
    found = messages(OPTIMIZER, {"name": "adamw", "learning_rate": -1, "b1": 2, "weight_decay": -3, "eps": 1e-8})
    assert found == {
        "learning_rate": "must be >= 0, got -1",
        "b1": "must be in [0, 1), got 2",
        "weight_decay": "must be >= 0, got -3",
    }


def test_the_structure_of_muon_is_named_in_a_config():
    part = {"name": "muon", "learning_rate": 0.02, "ns_coeffs": "cans", "muon_weight_dimension_numbers": "flax"}
    made = make_part(OPTIMIZER, checked_part(OPTIMIZER, part))
    direct = gradlab.muon(0.02, "cans", muon_weight_dimension_numbers=gradlab.flax_matrices())
    assert jax.tree.structure(made) == jax.tree.structure(direct)
    assert messages(OPTIMIZER, {**part, "ns_coeffs": "can"}).keys() == {"ns_coeffs"}
