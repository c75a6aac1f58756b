"""What the page shows in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from abhinaya.app.browsing import votes_on
from abhinaya.app.comparing import Ensemble, compare_ensembles
from abhinaya.app.listening import Hearing
from abhinaya.app.pictures import draw_sound
from abhinaya.app.texts import (
    explain_vote,
    show_comparison,
    show_hearing,
    show_picture,
    show_turns,
    show_votes,
)
from abhinaya.prompting.prompts import Turn


@pytest.mark.parametrize(
    ("utterance", "words"),
    [
        ("n6.wav", "by majority: 3 of 3 votes"),
        (
            "n7.wav",
            "a tie between angry (A) and fear (F) and surprise (U), broken by b: 1 of 3 votes",
        ),
        (
            "n8.wav",
            "a tie between angry (A) and neutral (N), broken by b: 1 of 2 votes; 1 abstained",
        ),
    ],
)
def test_vote_is_explained_by_the_rule_that_decided(run, utterance, words):
    votes = votes_on(run, "development", "vote", utterance)
    assert explain_vote(run, votes.members, votes.decided) == words


def test_votes_show_every_member_and_escape_what_they_say(run):
    votes = votes_on(run, "development", "vote", "n8.wav")
    head, cards = show_votes(run, votes, {"human": "<script>"})
    assert "<strong>angry (A)</strong>" in head
    assert "&lt;script&gt;" in head
    assert "true class:\n<strong>angry (A)</strong>" in head
    assert cards.count("<section") == 3
    assert "abstains: it says &lt;b&gt;nothing&lt;/b&gt;" in cards
    assert "<td>0.65</td>" in cards


def test_votes_on_a_member_table_say_what_it_says(run):
    head, _ = show_votes(run, votes_on(run, "development", "a", "n9.wav"), {})
    assert "what a says" in head
    assert "true class:\n<strong>unknown</strong>" in head
    head, _ = show_votes(run, votes_on(run, "development", "t1", "n8.wav"), {})
    assert "t1 abstained" in head


def test_hearing_shows_who_is_asked_then_the_decision_and_the_times(run):
    votes = votes_on(run, "development", "vote", "n7.wav")
    times = (("reading", 0.5), ("a", 1.25))
    decision, cards, table = show_hearing(
        run, Hearing(votes.members[:1], None, times, None, ("b",))
    )
    assert "asking b ..." in decision
    assert cards.count("<section") == 1
    assert "1.25 s" in table
    assert "1.75 s" in table  # in all
    done = Hearing(votes.members, "oh no", times, votes.decided)
    assert "broken by b" in show_hearing(run, done)[0]
    assert "oh no" in show_hearing(run, done)[0]
    assert "every member abstained" in show_hearing(run, replace(done, vote=None))[0]
    # A recipe is fitted on tables, and is not asked about a recording.
    assert "fuses by the recipe" in show_hearing(replace(run, recipe="stacking"), done)[0]
    assert "recipe" not in show_hearing(run, done)[0]


def test_comparison_shows_both_scores_or_why_there_are_none(run):
    pair = Ensemble(("a", "b", "t1"), ("b",)), Ensemble(("a", "t1"))
    shown = show_comparison(run, compare_ensembles(run, "development", *pair))
    assert "0.2083" in shown
    assert "0.2500" in shown
    assert "differ on 2 of 4 utterances. B minus A: +0.0417" in shown
    bare = show_comparison(run, compare_ensembles(replace(run, truth=None), "development", *pair))
    assert "no true labels for these rows" in bare


def test_turns_and_pictures_are_escaped():
    assert "&lt;b&gt;" in show_turns([Turn("user", "<b>")])
    assert 'alt="&#34;x&#34;"' in show_picture(b"png", '"x"')


@pytest.mark.parametrize("n_samples", [1, 400, 16_000])
def test_sound_of_any_length_is_drawn(n_samples):
    png = draw_sound(np.zeros(n_samples, dtype=np.float32), "$a_b$")
    assert png.startswith(b"\x89PNG")
