import hashlib

import pytest

from gradlab.sweeps.spaces.trial import Trial, canonical_json


def test_the_uid_is_the_hash_of_the_written_out_values():
    values = {"b2": 0.5, "a.rate": 2.0, "flag": True, "off": None, "name": "x"}
    text = '{"a.rate":2,"b2":0.5,"flag":true,"name":"x","off":null}'
    assert Trial.of(values).uid == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert Trial.of(values).values == values


def test_the_uid_depends_on_values_only():
    assert Trial.of({"a": 1, "b": 2}).uid == Trial.of({"b": 2.0, "a": 1.0}).uid
    assert len({Trial.of({"a": value}).uid for value in (1, True, "1", None, 1.5)}) == 5


def test_numbers_that_json_lacks_are_errors():
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_a_trial_does_not_change_with_the_dict_it_came_from():
    values = {"a": 1}
    trial = Trial.of(values)
    values["a"] = 2
    assert trial.values == {"a": 1}
