from __future__ import annotations

import sys

import pytest

import members
from abhinaya.errors import BadValueError, MissingPackageError, UnknownNameError
from abhinaya.registry import load_member, member_names

MEMBER_SOURCE = """
class Tiny:
    config_class = dict

    def train(self): ...

    def predict(self): ...

MEMBER = Tiny()
NOT_A_MEMBER = object()
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a distribution with members on the path, as pip would."""

    def install_distribution(entry_points, source=MEMBER_SOURCE, name="teammates"):
        folder = tmp_path / name
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {value}" for key, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[abhinaya.members]", *lines, ""]))
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        # Not left over for another test's distribution of the same name.
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install_distribution


def test_member_names_are_ours_sorted():
    assert member_names() == sorted(members.MEMBERS)


def test_member_of_another_distribution_is_listed_and_loaded(install):
    install({"tiny": "teammates:MEMBER"})
    assert member_names() == sorted([*members.MEMBERS, "tiny"])
    assert load_member("tiny").config_class is dict


def test_load_member_unknown_name_raises_with_a_near_match():
    with pytest.raises(UnknownNameError, match=r"Unknown member 'wavlmm'. Did you mean 'wavlm'"):
        load_member("wavlmm")


def test_two_members_of_one_name_raise(install):
    install({"wavlm": "teammates:MEMBER"})
    with pytest.raises(BadValueError, match=r"Two members are registered as 'wavlm'.*teammates:"):
        member_names()


def test_same_member_registered_twice_is_fine(install):
    install({"wavlm": members.MEMBERS["wavlm"]})
    assert member_names() == sorted(members.MEMBERS)


def test_load_member_that_is_none_raises_and_says_what_it_lacks(install):
    install({"tiny": "teammates:NOT_A_MEMBER"})
    with pytest.raises(BadValueError, match="has no config_class and no train and no predict"):
        load_member("tiny")


@pytest.mark.parametrize("target", ["teammates:OTHER", "no_such_module:MEMBER"])
def test_load_member_that_cannot_be_imported_raises(install, target):
    install({"tiny": target})
    with pytest.raises(BadValueError, match=f"'{target}', which cannot be imported"):
        load_member("tiny")


def test_load_member_that_lacks_a_package_keeps_its_message(install):
    """The advice to install an extra was once buried in "cannot be imported"."""
    install(
        {"tiny": "teammates:MEMBER"},
        source="from abhinaya.errors import MissingPackageError\n"
        "raise MissingPackageError('vllm', 'The engine', 'vllm')\n",
    )
    with pytest.raises(MissingPackageError, match=r"^The engine needs the package vllm"):
        load_member("tiny")
