from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, UnknownNameError
from abhinaya.prompting.prompts import Prompt, Turn, load_prompt, prompt_names

HEADER = "---\nname: own-v1\nversion: 1\nslots: [transcript]\n---\n"

CHAT = Prompt(
    name="chat-v1",
    version=1,
    turns=(
        Turn("system", "Choose: {{ classes }}. As JSON: {}"),
        Turn("user", "<Speech>{{ speech }}</Speech> {{ classes }}?"),
        Turn("assistant", "<Transcript> {{ transcript }}"),
    ),
    slots=("classes", "speech", "transcript"),
    source="chat-v1.md",
)


@pytest.fixture
def write(tmp_path):
    """Write `own-v1.md` and return its path as text."""

    def write_prompt(text):
        path = tmp_path / "own-v1.md"
        path.write_bytes(text.encode("utf-8"))
        return str(path)

    return write_prompt


def problems_of(path):
    with pytest.raises(ProblemsError, match=r"own-v1\.md") as caught:
        load_prompt(path)
    return caught.value.problems


# Reading


def test_load_prompt_reads_every_key_and_turn(write):
    path = write(
        "---\n"
        "name: own-v1\n"
        "version: 1\n"
        "slots: [transcript, classes]\n"
        "classes: [sad, happy]\n"
        "description: >\n"
        "  Two\n"
        "  lines.\n"
        "---\n"
        "## system\n"
        "Choose {{ classes }}.\n"
        "## user\n"
        "A\n"
        "## assistant\n"
        "sad\n"
        "## user\n"
        "{{ transcript }}\n"
    )
    assert load_prompt(path) == Prompt(
        name="own-v1",
        version=1,
        turns=(
            Turn("system", "Choose {{ classes }}."),
            Turn("user", "A"),
            Turn("assistant", "sad"),
            Turn("user", "{{ transcript }}"),
        ),
        slots=("transcript", "classes"),
        source=path,
        classes=("sad", "happy"),
        description="Two lines.",
    )


def test_load_prompt_drops_blank_lines_at_the_ends_of_a_turn_only(write):
    path = write(
        HEADER + "\n## user\n\n \n  one {{ transcript }}\n\n\ntwo \n\t\n\n## assistant\nA:  \n"
    )
    turns = load_prompt(path).turns
    assert turns == (Turn("user", "  one {{ transcript }}\n\n\ntwo "), Turn("assistant", "A:  "))


def test_load_prompt_takes_windows_line_ends_and_a_byte_order_mark(write):
    text = HEADER + "## user\none\n{{ transcript }}\n"
    assert load_prompt(write("\ufeff" + text.replace("\n", "\r\n"))).turns == (
        Turn("user", "one\n{{ transcript }}"),
    )


def test_load_prompt_keeps_unusual_line_separators_and_other_headings_as_text(write):
    path = write(HEADER + "## user\n# A\n### B\u2028{{ transcript }}\x0c!\n---\n")
    assert load_prompt(path).turns == (Turn("user", "# A\n### B\u2028{{ transcript }}\x0c!\n---"),)


def test_load_prompt_shipped_name_says_where_it_is_from():
    assert load_prompt("zero-shot-v1").source == "prompts/zero-shot-v1.md"


def test_prompt_names_are_sorted_and_leave_out_the_guide():
    assert "README" not in prompt_names()
    assert list(prompt_names()) == sorted(prompt_names())


def test_load_prompt_unknown_name_raises_with_near_match_and_list():
    with pytest.raises(
        UnknownNameError, match=r"Unknown prompt 'zero-shot'. Did you mean 'zero-shot-v1'.*salmonn"
    ):
        load_prompt("zero-shot")


@pytest.mark.parametrize("name", ["zero-shot-v1.md", "prompts-elsewhere/zero-shot-v1"])
def test_load_prompt_absent_file_raises(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MissingFileError, match=r"no prompt file '.*'. Did you mean 'zero-shot-v1'.*path of a .md"
    ):
        load_prompt(name)


# Mistakes in a file


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("## user\nA", "there is no front matter; begin the file with a line ---"),
        ("\n" + HEADER + "## user\n{{ transcript }}", "there is no front matter"),
        ("---\nname: own-v1\n## user\nA", "there is no front matter"),
        ("---\nname: [\n---\n## user\nA", "the front matter is not YAML"),
        ("---\ndescription: 2024-99-99\n---\n## user\nA", "the front matter is not YAML"),
        ("---\n- name\n---\n## user\nA", "the front matter holds a list, expected keys"),
        ("---\n---\n## user\nA", "the front matter holds nothing, expected keys"),
        (HEADER.replace("slots", "slot") + "## user\nA", "slot is unknown, did you mean slots?"),
        (HEADER.replace("version: 1\n", "") + "## user\n{{ transcript }}", "version is missing"),
        (HEADER.replace("version: 1", "version: 0") + "## user\n{{ transcript }}", "version is 0"),
        (
            HEADER.replace("version: 1", "version: one") + "## user\n{{ transcript }}",
            "is 'one', exp",
        ),
        (
            HEADER.replace("name:", "name: a\nname:") + "## user\n{{ transcript }}",
            "'name' stands there",
        ),
        (
            HEADER.replace("own-v1", "other-v1") + "## user\n{{ transcript }}",
            "name is 'other-v1', expected the file's own, 'own-v1'",
        ),
        (
            HEADER.replace("version: 1", "version: 2") + "## user\n{{ transcript }}",
            "version is 2, but the file's name does not end in -v2",
        ),
        (HEADER + "## user\nA", "slots names 'transcript', which is not used"),
        (
            HEADER.replace("transcript", "transcript, text") + "## user\n{{ transcript }}",
            "slots names 'text', which is not used and unknown; known are speech, transcript",
        ),
        (
            HEADER.replace("transcript", "transcript, transcript") + "## user\n{{ transcript }}",
            "slots names 'transcript' twice",
        ),
        (
            HEADER + "## user\n{{ transcript }} {{ classes }}",
            "the slot 'classes' is used but slots lacks it",
        ),
        (
            HEADER + "## user\n{{ transcript }} {{ klasses }}",
            "the slot 'klasses' is unknown. Did you mean 'classes'?",
        ),
        (
            HEADER.replace("slots", "classes: [sad, sad]\nslots") + "## user\n{{ transcript }}",
            "classes names 'sad' twice",
        ),
        (HEADER + "{{ transcript }}\n## user\nA", "there is text above the first heading"),
        (
            HEADER + "## user\n{{ transcript }}\n## User\nA",
            "the heading '## User' is no role. Did you mean 'user'? Known: system, user, assistant",
        ),
        (HEADER + "## system\n{{ transcript }}", "there is no user turn; write one below"),
        (HEADER, "there is no user turn"),
        (HEADER + "## system\n\n## user\n{{ transcript }}", "the system turn is empty"),
        (
            HEADER + "## user\n{{ transcript }}\n## user\nA",
            "the turns are user, user; expected at most one system turn, first",
        ),
        (
            HEADER + "## user\n{{ transcript }}\n## system\nA",
            "the turns are user, system; expected",
        ),
        (
            HEADER + '## user\n{{ transcript }} as {{"label": 1}}',
            "the user turn is no Jinja template: expected token 'end of print statement', got ':'; "
            "write {{ '{{' }} for",
        ),
        (HEADER + "## user\n{{ transcript|loud }}", "No filter named 'loud'"),
        (HEADER + "## user\n{{ transcript.loud }}", "has no attribute 'loud'"),
        (HEADER + "## user\n{{ transcript.__class__ }}", "of 'str' object is unsafe"),
        (HEADER + "## user\n{% include 'x' %}{{ transcript }}", "the user turn is no Jinja"),
        (
            HEADER + "## user\n{transcript}",
            "the user turn has {transcript}; slots take two brackets now: {{ transcript }}",
        ),
    ],
)
def test_load_prompt_mistake_in_the_file_raises(write, text, problem):
    assert any(problem in found for found in problems_of(write(text)))


def test_load_prompt_reports_all_mistakes_together(write):
    path = write(
        "---\nname: else-v1\nversion: 1\nslots: [gender]\nauthor: me\n---\n"
        "## usr\n{{ transcript }}\n## assistant\n{{\n"
    )
    found = " | ".join(problems_of(path))
    for essential in (
        "author is unknown",
        "name is 'else-v1'",
        "'gender', which is not used",
        "'transcript' is used but slots lacks it",
        "'## usr' is no role",
        "the assistant turn is no Jinja template",
        "no user turn",
    ):
        assert essential in found
    assert len(problems_of(path)) == 7


def test_load_prompt_mistake_with_a_slot_used_twice_is_told_once(write):
    found = problems_of(
        write(HEADER + "## user\n{{ transcript }} {{ gender }} {{ sex }}, {{ gender }} {{ sex }}\n")
    )
    assert [problem[:18] for problem in found] == ["the slot 'gender' ", "the slot 'sex' is "]


def test_load_prompt_not_utf8_raises(tmp_path):
    path = tmp_path / "own-v1.md"
    path.write_bytes(b"\xff\xfe")
    assert "it is not UTF-8" in problems_of(path)[0]


# Filling


def test_render_fills_all_slots_and_keeps_single_brackets():
    assert CHAT.render(classes="sad, happy", speech="", transcript="Oh no.") == (
        Turn("system", "Choose: sad, happy. As JSON: {}"),
        Turn("user", "<Speech></Speech> sad, happy?"),
        Turn("assistant", "<Transcript> Oh no."),
    )


@pytest.mark.parametrize(
    "text",
    ["{classes}", "{{ classes }}", "{% raw %}", "{#", "<SpeechHere>", "{", "}}", r"\1 \g<0>"],
)
def test_render_never_looks_for_slots_in_what_it_filled_in(text):
    turns = CHAT.render(classes="sad", speech=text, transcript=text)
    assert turns[1].text == f"<Speech>{text}</Speech> sad?"
    assert turns[2].text == f"<Transcript> {text}"


def test_render_brackets_around_a_slot():
    prompt = replace(CHAT, turns=(Turn("user", "{{ '{' }}{{ classes }}} {{ '{{ classes }}' }}"),))
    assert prompt.render(classes="sad") == (Turn("user", "{sad} {{ classes }}"),)


@given(st.text(), st.text())
def test_render_keeps_any_value_to_the_letter(classes, transcript):
    turns = CHAT.render(classes=classes, speech="", transcript=transcript)
    assert turns[1].text == f"<Speech></Speech> {classes}?"
    assert turns[2].text == f"<Transcript> {transcript}"


def test_render_without_a_value_raises_with_all_that_are_missing():
    with pytest.raises(
        BadValueError,
        match=r"'chat-v1' needs text for \{\{ speech \}\}, \{\{ transcript \}\}, "
        r"got \{\{ classes \}\}",
    ):
        CHAT.render(classes="sad", transcript=None)


def test_render_leaves_values_for_other_slots_unused():
    assert CHAT.render(classes="", speech="", transcript="", gender="female")[1].role == "user"


def test_render_value_that_is_no_slot_raises():
    with pytest.raises(UnknownNameError, match=r"slot 'transcrpt'. Did you mean 'transcript'"):
        CHAT.render(transcrpt="")


def test_around_gives_the_text_on_both_sides_with_other_slots_filled():
    assert CHAT.around("speech", classes="{speech}") == ("<Speech>", "</Speech> {speech}?")


def test_around_needs_the_other_slots_of_the_user_turn_only():
    with pytest.raises(BadValueError, match=r"needs text for \{\{ classes \}\}, got none"):
        CHAT.around("speech")
    alone = replace(
        CHAT, turns=(*CHAT.turns[:1], Turn("user", "{{ '{' }}{{ speech }}}"), *CHAT.turns[2:])
    )
    assert alone.around("speech") == ("{", "}")


@pytest.mark.parametrize(("text", "times"), [("A {speech}", 0), ("{{ speech }}{{ speech }}", 2)])
def test_around_slot_not_exactly_once_raises(text, times):
    prompt = replace(CHAT, turns=(Turn("user", text),))
    with pytest.raises(BadValueError, match=rf"slot \{{\{{ speech \}}\}} {times} times, expected"):
        prompt.around("speech")


def test_around_several_user_turns_raises():
    prompt = replace(CHAT, turns=(Turn("user", "{{ speech }}"), Turn("assistant", "a")) * 2)
    with pytest.raises(BadValueError, match="has 2 user turns, expected one"):
        prompt.around("speech")


def test_assistant_text_is_the_filled_last_turn_or_empty():
    assert CHAT.assistant_text(transcript="Hi {classes}") == "<Transcript> Hi {classes}"
    assert replace(CHAT, turns=CHAT.turns[:2]).assistant_text() == ""
    with pytest.raises(BadValueError, match=r"needs text for \{\{ transcript \}\}"):
        CHAT.assistant_text()


def test_needs_joins_what_the_slots_need():
    # context comes from the turns before, which are transcripts; classes need nothing of a clip.
    assert replace(CHAT, slots=("classes", "examples")).needs == frozenset()
    assert replace(CHAT, slots=("hints", "gender")).needs == {"audio", "gender"}
    assert replace(CHAT, slots=("context",)).needs == {"context", "text"}
