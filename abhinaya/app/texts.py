"""What the page shows of votes, as HTML that nothing in a name or a transcript can break."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jinja2 import DictLoader, Environment

from abhinaya.app.browsing import UtteranceVotes
from abhinaya.app.comparing import Comparison
from abhinaya.app.listening import Hearing
from abhinaya.app.run import OpenedRun
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.predictions import PredictionTable
from abhinaya.prompting.prompts import Turn

__all__ = [
    "CSS",
    "explain_vote",
    "show_answer",
    "show_comparison",
    "show_hearing",
    "show_picture",
    "show_sentence",
    "show_turns",
    "show_votes",
]

CSS = """
.abhinaya-cards { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
.abhinaya-card { border: 1px solid #8a8f98; border-radius: 6px; padding: 10px 12px; min-width: 0; }
.abhinaya-card h3 { font-size: 1rem; margin: 0 0 4px; overflow-wrap: anywhere; }
.abhinaya-card p { margin: 0 0 6px; overflow-wrap: anywhere; }
.abhinaya-bars { width: 100%; border-collapse: collapse; font-size: 0.85rem; }
.abhinaya-bars, .abhinaya-table,
:is(.abhinaya-bars, .abhinaya-table) :is(thead, tbody, tr, th, td) { border: 0 !important; }
.abhinaya-bars th { font-weight: normal; text-align: left; width: 40%; padding: 1px 4px 1px 0; }
.abhinaya-bars td { padding: 1px 0; }
.abhinaya-bars td:last-child { text-align: right; width: 3.2em;
  font-variant-numeric: tabular-nums; }
.abhinaya-bars .chosen th, .abhinaya-bars .chosen td { font-weight: bold; }
.abhinaya-bar { display: block; height: 0.8em; background: #7fa6c9; border-radius: 2px; }
.chosen .abhinaya-bar { background: #1d4e79; }
.dark .chosen .abhinaya-bar { background: #e8b04a; }
.abhinaya-decision { font-size: 1.25rem; margin: 4px 0 12px; overflow-wrap: anywhere; }
.abhinaya-facts { overflow-wrap: anywhere; margin: 4px 0 12px; }
.abhinaya-scroll { overflow-x: auto; }
.abhinaya-table { border-collapse: collapse; font-size: 0.9rem; margin: 8px 0; }
.abhinaya-table :is(th, td) { border-bottom: 1px solid #8a8f98 !important;
  text-align: left; padding: 4px 14px 4px 0; white-space: nowrap; }
.abhinaya-turn { border-left: 4px solid #33658a; padding: 4px 12px; margin: 8px 0; }
.abhinaya-turn pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0;
  font-family: inherit; background: none; }
.abhinaya-picture { width: 100%; max-width: 880px; height: auto; }
/* What gradio writes in a grey too light to be read, or too wide for a telephone. */
.or, time, .playback, .info-text { color: var(--body-text-color) !important; }
@media (max-width: 480px) { .tab-container button { padding: 0 7px !important; } }
"""
"""Of the pieces below. Classes are told apart by words and weight, never by hue alone."""

_TEMPLATES = {
    "cards": """<div class="abhinaya-cards">
{%- for card in cards %}
<section class="abhinaya-card"><h3>{{ card.name }}</h3>
{%- if card.label %}<p>votes <strong>{{ card.label }}</strong></p>
{%- else %}<p>abstains{% if card.reason %}: {{ card.reason }}{% endif %}</p>{% endif %}
{%- if card.raw %}<p>answered: {{ card.raw }}</p>{% endif %}
{%- if card.bars %}<table class="abhinaya-bars" aria-label="Probabilities of {{ card.name }}">
{%- for name, share, chosen in card.bars %}
<tr{% if chosen %} class="chosen"{% endif %}><th scope="row">{{ name }}</th>
<td><span class="abhinaya-bar" style="width: {{ '%.1f' % (100 * share) }}%"></span></td>
<td>{{ '%.2f' % share }}</td></tr>{% endfor %}</table>{% endif %}</section>{% endfor %}
</div>""",
    "decision": """<p class="abhinaya-decision" role="status">{% if label %}
<strong>{{ label }}</strong> - {% endif %}{{ why }}</p>""",
    "facts": """<p class="abhinaya-facts">{% for key, value in facts %}{{ key }}:
<strong>{{ value }}</strong>{% if not loop.last %}; {% endif %}{% endfor %}</p>""",
    "table": """<div class="abhinaya-scroll" tabindex="0" role="region" aria-label="{{ label }}">
<table class="abhinaya-table" aria-label="{{ label }}"><thead><tr>
{%- for head in columns %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead><tbody>
{%- for row in rows %}<tr><th scope="row">{{ row[0] }}</th>
{%- for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>""",
    "turns": """{% for turn in turns %}<section class="abhinaya-turn">
<strong>{{ turn.role }}</strong><pre>{{ turn.text }}</pre></section>{% endfor %}""",
    "picture": """<img class="abhinaya-picture" alt="{{ alt }}"
src="data:image/png;base64,{{ data }}">""",
    "sentence": "<p>{{ text }}</p>",
}

_PAGE = Environment(loader=DictLoader(_TEMPLATES), autoescape=True, trim_blocks=True)


def explain_vote(run: OpenedRun, tables: Sequence[PredictionTable], vote: PredictionTable) -> str:
    """Return in words how one row was decided: by majority, or by whom the tie was broken.

    Args:
        run: has the names of classes.
        tables: of the members, one row each.
        vote: of them, one row.
    """
    votes = [int(table.labels[0]) for table in tables if table.labels[0] != ABSTAIN]
    counts = np.bincount(votes, minlength=len(run.emotions)) if votes else np.zeros(1, int)
    decider = vote.decided_by[0] if vote.decided_by is not None else None
    abstained = len(tables) - len(votes)
    also = f"; {abstained} abstained" if abstained else ""
    if not votes:
        return "every member abstained, so the fallback decides"
    label = int(vote.labels[0])
    has_voted = f"{counts[label]} of {len(votes)} votes" if label != ABSTAIN else "no class"
    if decider == "majority":
        most = "majority" if run.vote.rule == "plurality" else f"rule {run.vote.rule}"
        return f"by {most}: {has_voted}{also}"
    if decider in {table.name for table in tables}:
        tied = [run.class_name(int(idx)) for idx in np.flatnonzero(counts == counts.max())]
        between = " and ".join(tied) if len(tied) > 1 else "the first classes"
        return f"a tie between {between}, broken by {decider}: {has_voted}{also}"
    return f"decided by {decider or 'its own rule'}: {has_voted}{also}"


def show_hearing(run: OpenedRun, hearing: Hearing) -> tuple[str, str, str]:
    """Return what the members made of a recording: the decision, their votes, and the times."""
    if hearing.waiting:
        decision = _render("decision", label=None, why=f"asking {hearing.waiting[0]} ...")
    elif hearing.vote is None:
        decision = _render("decision", label=None, why="every member abstained: there is no label")
    else:
        label = run.class_name(int(hearing.vote.labels[0]))
        why = explain_vote(run, hearing.tables, hearing.vote)
        if run.recipe is not None:
            why += f". The run fuses by the recipe {run.recipe!r}; this is a plain vote"
        decision = _render("decision", label=label, why=why)
    if hearing.transcript is not None:
        decision += _render("facts", facts=[("transcript", hearing.transcript)])
    rows = [[stage, f"{seconds:.2f} s"] for stage, seconds in hearing.times]
    total = sum(seconds for _, seconds in hearing.times)
    times = _render(
        "table",
        label="Time per stage",
        columns=["stage", "time"],
        rows=[*rows, ["in all", f"{total:.2f} s"]],
    )
    return decision, _show_cards(run, hearing.tables), times


def show_votes(run: OpenedRun, votes: UtteranceVotes, texts: Mapping[str, str]) -> tuple[str, str]:
    """Return how an utterance of a table was decided, and what every member said of it.

    Args:
        run: has the names of classes.
        votes: on it.
        texts: its transcripts by source.
    """
    label = run.class_name(int(votes.decided.labels[0]))
    name = votes.decided.name
    if "tables" in votes.decided.meta:
        named = set(votes.decided.meta["tables"])
        voters = [table for table in votes.members if table.name in named]
        why = f"{name}: {explain_vote(run, voters, votes.decided)}"
    elif votes.decided.labels[0] == ABSTAIN:
        why = f"{name} abstained"
    else:
        why = f"what {name} says"
    facts = [("utterance", votes.utterance)]
    facts.append(("true class", run.class_name(votes.true) if votes.true >= 0 else "unknown"))
    facts.append(("speaker", votes.speaker or "unknown"))
    facts += texts.items()
    head = _render("decision", label=label, why=why) + _render("facts", facts=facts)
    return head, _show_cards(run, votes.members)


def show_comparison(run: OpenedRun, found: Comparison) -> str:
    """Return macro-F1 of both ensembles, or why there is none."""
    n_rows = len(found.votes[0])
    sentence = f"They differ on {len(found.differing)} of {n_rows} utterances."
    if found.scores is None:
        return _render(
            "sentence",
            text=f"{sentence} There are no true labels for these rows, so there is no score; "
            "start the page with --truth to add some.",
        )
    rows = [
        [
            score.name,
            f"{score.scores.macro_f1:.4f}",
            f"{score.interval[0]:.4f} to {score.interval[1]:.4f}",
            f"{score.scores.accuracy:.4f}",
            score.scores.n_utts,
        ]
        for score in found.scores
    ]
    columns = ["ensemble", "macro-F1", "95 % interval", "accuracy", "rows"]
    difference = found.scores[1].scores.macro_f1 - found.scores[0].scores.macro_f1
    text = f"{sentence} B minus A: {difference:+.4f} macro-F1."
    table = _render("table", label="Scores of both ensembles", columns=columns, rows=rows)
    return table + _render("sentence", text=text)


def show_sentence(text: str) -> str:
    """Return a sentence as a paragraph."""
    return _render("sentence", text=text)


def show_turns(turns: Sequence[Turn]) -> str:
    """Return a chat."""
    return _render("turns", turns=turns)


def show_answer(run: OpenedRun, model: str, table: PredictionTable) -> str:
    """Return what a prompted model answered, and the class that was read out of it."""
    return _show_cards(run, [replace(table, name=model)])


def show_picture(png: bytes, alt: str) -> str:
    """Return a picture in the page itself."""
    return _render("picture", alt=alt, data=base64.b64encode(png).decode())


def _show_cards(run: OpenedRun, tables: Sequence[PredictionTable]) -> str:
    cards = []
    for table in tables:
        label = int(table.labels[0])
        probs = table.probs[0] if table.has_probs[0] and table.probs is not None else ()
        cards.append(
            {
                "name": table.name,
                "label": run.class_name(label) if label != ABSTAIN else None,
                "reason": table.reasons[0],
                "raw": table.raw[0] if table.raw is not None else None,
                "bars": [
                    (name, float(share), idx == label)
                    for idx, (name, share) in enumerate(
                        zip(run.emotions.names, probs, strict=False)
                    )
                ],
            }
        )
    return _render("cards", cards=cards)


def _render(template: str, **values: object) -> str:
    return _PAGE.get_template(template).render(values)
