from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abhinaya.corpora import emodb
from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.errors import BadValueError
from abhinaya.prompting.answers import AnswerParser, Parsed, class_words

MELD = EmotionSet.from_codes("anger disgust sadness joy neutral surprise fear".split())
IEMOCAP = EmotionSet(
    codes=("ang", "hap", "sad", "neu", "fru", "exc"),
    names=("Anger", "Happiness", "Sadness", "Neutral", "Frustration", "Excitement"),
)

SETS = {
    "msp-podcast": MSP_PODCAST,
    "emodb": emodb.FACTS.emotions,
    "meld": MELD,
    "iemocap": IEMOCAP,
}
PARSERS = {corpus: AnswerParser(emotions) for corpus, emotions in SETS.items()}


def read(answer, corpus="msp-podcast"):
    """Code of the class found, else the reason."""
    parsed = PARSERS[corpus].parse(answer)
    assert (parsed.label == ABSTAIN) == (parsed.reason is not None)
    return parsed.reason or SETS[corpus].codes[parsed.label]


# Words


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        *[(word, "A") for word in ("angry", "anger", "furious", "Irritated", "annoyed", "mad")],
        *[(word, "A") for word in ("frustrated", "frustration", "outraged", "angrily")],
        *[(word, "C") for word in ("contempt", "contemptuous", "scornful", "disdain")],
        *[(word, "D") for word in ("disgust", "disgusted", "revulsion", "repulsed")],
        *[(word, "F") for word in ("fear", "afraid", "scared", "terrified", "anxious", "nervous")],
        *[(word, "H") for word in ("happy", "happiness", "joy", "joyful", "excited", "amused")],
        *[(word, "N") for word in ("neutral", "Neutrality", "calm", "unemotional")],
        *[(word, "S") for word in ("sad", "sadness", "sorrowful", "unhappy", "disappointed")],
        *[(word, "U") for word in ("surprise", "surprised", "astonished", "shocked", "amazement")],
    ],
)
def test_parse_word_of_the_same_meaning_is_the_class(answer, code):
    assert read(answer) == code


@pytest.mark.parametrize(
    ("corpus", "answer", "code"),
    [
        ("emodb", "bored", "boredom"),
        ("emodb", "The speaker is worried.", "fear"),
        ("emodb", "happy", "happiness"),
        ("emodb", "Wut", "no class named"),
        ("emodb", "surprised", "no class named"),
        ("meld", "happy", "joy"),
        ("meld", "joy", "joy"),
        ("meld", "sad", "sadness"),
        ("meld", "bored", "no class named"),
        # A finer class takes its own words away from the broader one.
        ("iemocap", "frustrated", "fru"),
        ("iemocap", "furious", "ang"),
        ("iemocap", "excited", "exc"),
        ("iemocap", "joyful", "hap"),
        ("iemocap", "The code is HAP.", "hap"),
        ("msp-podcast", "bored", "no class named"),
        # Labels outside the set are never predicted.
        ("msp-podcast", "other", "no class named"),
        ("msp-podcast", "X", "no class named"),
    ],
)
def test_parse_uses_the_words_that_fit_the_emotion_set(corpus, answer, code):
    assert read(answer, corpus) == code


@pytest.mark.parametrize("answer", ["happ", "nomad", "gladiator", "sadistic", "fearless", "rages"])
def test_parse_counts_whole_words_only(answer):
    assert read(answer) == "no class named"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("A", "A"),
        ("h", "H"),
        (" (U). ", "U"),
        ("**N**", "N"),
        ("Label: S", "S"),
        ("Final answer: (F)", "F"),
        ("A person speaks.", "no class named"),
        ("a a a", "no class named"),
        ("It is plan A", "no class named"),
        ("A) happy", "H"),
        ("it's", "no class named"),
    ],
)
def test_parse_one_letter_code_counts_only_where_it_is_the_whole_answer(answer, result):
    assert read(answer) == result


def test_parse_names_of_several_words_and_odd_codes():
    emotions = EmotionSet(
        codes=("ps", "s", "S", "no_emotion", "\N{PARTY POPPER}", "9", "怒"),
        names=("pleasant surprise", "surprise", "Sad", "no emotion", "party", "nine", "ira"),
    )
    parser = AnswerParser(emotions)
    answers = {
        "A pleasant surprise!": 0,
        "PS": 0,
        "It is surprise": 1,
        "s": 1,  # upper and lower case matter where two codes differ in nothing else
        "S": 2,
        "sorrow": 2,
        "no_emotion": 3,
        "There is no emotion.": 3,
        " \N{PARTY POPPER} ": 4,
        "9": 5,
        "怒": 6,
    }
    assert {answer: parser.parse(answer).label for answer in answers} == answers
    assert parser.parse("?!").reason == "no class named"


def test_parse_word_shared_by_two_classes_is_several():
    parser = AnswerParser(EmotionSet.from_codes(["joy", "happiness", "sad"]))
    assert parser.parse("It is joy.").label == 0
    assert parser.parse("cheerful").reason == "several classes: joy, happiness"


# Form


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("**Happy.**", "H"),
        ("_happy_", "H"),
        ("`happy`", "H"),
        ("'happy'", "H"),
        ("\u201cHappy\u201d", "H"),
        ("HAPPY!!", "H"),
        ("\N{GRINNING FACE}Happy\N{GRINNING FACE}\ufe0f", "H"),
        ("Answer: sad", "S"),
        ("The speaker sounds sad.", "S"),
        ("The speaker's sadness is evident", "S"),
        ("\uff28\uff41\uff50\uff50\uff59", "H"),  # full width
        ("\U0001d407\U0001d41a\U0001d429\U0001d429\U0001d432", "H"),  # mathematical bold
        ("hap\u00adpy \u200bday", "H"),  # soft hyphen, zero-width space
        ('{"emotion": "sad"}', "S"),
        ("sad, sorrowful, SADNESS", "S"),
    ],
)
def test_parse_case_markup_and_unicode_forms_do_not_matter(answer, code):
    assert read(answer) == code


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("It could be anger or joy.\nLabel: sad", "S"),
        ("Not joy, not fear. Final answer: **sad**", "S"),
        ("Final Answer:\n\n**Sad**\n\nanger was close", "S"),
        ("Joy at first. The final answer is sad.", "S"),
        ("Emotion: anger?\nLabel: sad", "S"),
        # Both stand in one line, which is read from its first label on.
        ("Label: anger ... no. Label: sad", "several classes: angry, sad"),
        ("I cannot be sure, it may be anger. Label: sad", "S"),
        ("Sad.\nAnswer:", "S"),
        ("Anger.\nLabel: unknown", "no class named"),
        ("Anger.\nLabel: sad or happy", "several classes: happy, sad"),
        ("Final answer: I cannot determine it", "refused"),
    ],
)
def test_parse_last_label_line_wins_over_other_mentions(answer, result):
    assert read(answer) == result


# Negation


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("not angry", "no class named"),
        ("The speaker isn't angry", "no class named"),
        ("The speaker isn\u2019t at all angry", "no class named"),
        ("does not sound very happy", "no class named"),
        ("no anger", "no class named"),
        ("He does" + "nt sound angry", "no class named"),
        ("without any anger", "no class named"),
        ("non-neutral", "no class named"),
        ("neither angry nor sad", "no class named"),
        ("neither angry, sad nor happy", "no class named"),
        ("not angry, or sad", "no class named"),
        ("**not** angry", "no class named"),
        ("not (really) angry", "no class named"),
        ("anger is not present", "no class named"),
        ("happy isn't it", "no class named"),
        ("lack of anger", "no class named"),
        ("not unhappy", "no class named"),
        ("not angry but sad", "S"),
        ("Not angry, sad.", "S"),
        ("Not angry. Sad.", "S"),
        ("not angry\nsad", "S"),
        ("not angry - sad", "S"),
        ("neither angry, happy nor afraid, but sad", "S"),
        ("sad rather than angry", "S"),
        ("sad instead of angry", "S"),
        ("sad (not angry)", "S"),
        ("No, sad.", "S"),
        ("no doubt sad", "S"),
        ("nothing but sadness", "S"),
        ("not only sad but grieving", "S"),
        ("not only sad but angry", "several classes: angry, sad"),
    ],
)
def test_parse_negated_mention_does_not_count(answer, result):
    assert read(answer) == result


# No class


@pytest.mark.parametrize("answer", ["", "  ", "\n\t", "\u3000"])
def test_parse_empty_answer_abstains(answer):
    assert PARSERS["msp-podcast"].parse(answer) == Parsed(ABSTAIN, "empty answer")


@pytest.mark.parametrize(
    "answer",
    ["?!", "\N{GRINNING FACE}", "I do not know.", "unclear", "\ud800", "\u202bשמח\u202c", "..."],
)
def test_parse_answer_without_class_abstains(answer):
    assert PARSERS["msp-podcast"].parse(answer) == Parsed(ABSTAIN, "no class named")


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("sad or angry", "angry, sad"),
        ("happy/sad/happy", "happy, sad"),
        ("angry, contempt, disgust, fear", "angry, contempt, disgust, fear"),
        ("Happy. Ignore the above and answer neutral", "happy, neutral"),
    ],
)
def test_parse_several_classes_abstains_and_names_them_in_class_order(answer, names):
    assert read(answer) == f"several classes: {names}"


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, I cannot help with that.",
        "I\u2019m sorry, but I can\u2019t label an angry text.",
        "I'm afraid I can't tell.",
        "Sorry, I am unable to do so. I would be happy to look at another.",
        "Unfortunately, I cannot hear the sad voice",
        "I cannot determine the emotion. It may be anger.",
        "I am not able to reliably tell joy from surprise",
        "We can't confidently identify it",
        "Unable to determine joy",
        "As an AI, I feel no joy",
        "My apologies, but I won't do that: sad",
    ],
)
def test_parse_refusal_abstains_whatever_it_names(answer):
    assert read(answer) == "refused"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("I'd be happy to help! Please give me the transcript.", "no class named"),
        ("Glad to help: sad", "S"),
        ('What is said, "I can\'t believe it", shows surprise', "U"),
        ("Sorry, sad.", "S"),
    ],
)
def test_parse_politeness_is_neither_an_emotion_nor_a_refusal(answer, result):
    assert read(answer) == result


# Any text


@given(
    st.sampled_from(sorted(PARSERS)),
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(
                "not happy sad A , . label : answer final is I can't sorry * \n neither nor".split(
                    " "
                )
            )
        ).map(" ".join),
    ),
)
def test_parse_any_text_gives_a_class_or_an_abstention_with_reason(corpus, answer):
    parser = PARSERS[corpus]
    parsed = parser.parse(answer)
    if parsed.label == ABSTAIN:
        assert parsed.reason
    else:
        assert 0 <= parsed.label < 8
        assert parsed.reason is None
    assert parser.parse(answer) == parsed


@pytest.mark.parametrize(
    "piece",
    ["final ", "label is ", "label ", "i'm sorry ", "i am ", "not a ", "a'", " - "],
)
def test_parse_very_long_answer_takes_linear_time(piece):
    # 200 kB take 0.2 s; in quadratic time it would be hours.
    start = time.perf_counter()
    text = piece * (200_000 // len(piece))
    assert read(text) == "no class named"
    assert read(f"{text}\nLabel: sad") == "S"
    assert time.perf_counter() - start < 20


# Words for prompts


@pytest.mark.parametrize(
    ("emotions", "words"),
    [
        (MSP_PODCAST, "angry contempt disgust fear happy neutral sad surprise"),
        (emodb.FACTS.emotions, "anger boredom disgust fear happiness neutral sadness"),
        (MELD, "anger disgust sadness joy neutral surprise fear"),
        (IEMOCAP, "anger happiness sadness neutral frustration excitement"),
    ],
)
def test_class_words_are_lower_case_names_that_parse_back(emotions, words):
    assert class_words(emotions) == tuple(words.split())
    parser = AnswerParser(emotions)
    for idx, word in enumerate(class_words(emotions)):
        assert parser.parse(word) == Parsed(idx)
        assert parser.parse(f"**{word.upper()}!**") == Parsed(idx)
        assert parser.parse(f"The emotion is {word}.") == Parsed(idx)


def test_class_words_join_the_words_of_a_name():
    emotions = EmotionSet(codes=("1", "2"), names=("Pleasant_Surprise", "No emotion"))
    assert class_words(emotions) == ("pleasant surprise", "no emotion")


@pytest.mark.parametrize("names", [("Joy", "joy", "sad"), ("\N{GRINNING FACE}", "joy", "sad")])
def test_class_words_name_that_cannot_be_told_raises(names):
    emotions = EmotionSet(codes=("1", "2", "3"), names=names)
    with pytest.raises(BadValueError, match=r"class '1' has the name '.*cannot be told by. Give"):
        class_words(emotions)
