from __future__ import annotations

import pickle

import pytest

from abhinaya import errors
from abhinaya.errors import (
    AbhinayaError,
    ClassOrderError,
    MissingFileError,
    MissingPackageError,
    ProblemsError,
    UnknownNameError,
    did_you_mean,
    list_some,
)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("AudioError", ValueError),
        ("BadShapeError", ValueError),
        ("BadValueError", ValueError),
        ("CheckpointError", ValueError),
        ("ClassOrderError", ValueError),
        ("MissingFileError", FileNotFoundError),
        ("MissingPackageError", ImportError),
        ("ProblemsError", ValueError),
        ("UnknownNameError", KeyError),
    ],
)
def test_every_error_is_ours_and_a_builtin_one(name, builtin):
    error_class = getattr(errors, name)
    assert issubclass(error_class, AbhinayaError)
    assert issubclass(error_class, builtin)


def test_unknown_name_error_gives_near_match_and_sorted_list():
    message = str(UnknownNameError("member", "wavlmm", ["wavlm", "salmonn-13b"]))
    assert message == ("Unknown member 'wavlmm'. Did you mean 'wavlm'? Known: salmonn-13b, wavlm.")


def test_unknown_name_error_without_known_names_says_none():
    assert str(UnknownNameError("rule", "vote", [])) == "Unknown rule 'vote'. Known: none."


def test_unknown_name_error_shortens_names_out_of_damaged_files():
    message = str(UnknownNameError("column", "a" * 10_000, ["b" * 10_000]))
    assert len(message) < 2_500
    assert message.endswith("bbb... (10,000 characters).")


def test_missing_file_error_prints_its_message_only():
    assert str(MissingFileError("There is no table 'x'.")) == "There is no table 'x'."


def test_missing_package_error_names_the_extra():
    assert str(MissingPackageError("wandb", "Logging to Weights & Biases", "wandb")) == (
        "Logging to Weights & Biases needs the package wandb. "
        "Install it with: pip install 'abhinaya[wandb]'."
    )


def test_class_order_error_shows_both_orders():
    message = str(ClassOrderError("Table 'x'", ("H", "A"), ("A", "H"), "table 'y'"))
    assert "Table 'x' has the class order H A, but table 'y' has A H." in message
    assert "permute the classes" in message


def test_problems_error_numbers_the_problems():
    error = ProblemsError("a.yaml", ["x is unknown", "y is missing"])
    assert str(error) == "2 problems in a.yaml: (1) x is unknown. (2) y is missing."
    assert error.problems == ("x is unknown", "y is missing")
    assert str(ProblemsError("a.yaml", ["x is unknown"])).startswith("1 problem in a.yaml: (1) x")


def test_did_you_mean_nothing_near_is_empty():
    assert did_you_mean("zzz", ["wavlm"]) == ""


def test_list_some_shows_the_first_and_counts_the_rest():
    assert list_some(["a "]) == "'a '"
    assert list_some(["a", "b", "c"]) == "'a', 'b', 'c'"
    assert list_some(range(5)) == "0, 1, 2 and 2 more"
    assert list_some([]) == ""


@pytest.mark.parametrize(
    "error",
    [
        UnknownNameError("member", "wavlmm", ["wavlm"]),
        MissingPackageError("wandb", "Logging", "wandb"),
        ClassOrderError("Table 'x'", ("H", "A"), ("A", "H"), "table 'y'"),
        ProblemsError("a.yaml", ["x is unknown"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_survives_the_way_back_from_a_worker_process(error):
    """Data-loading and pool workers send their errors pickled."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
