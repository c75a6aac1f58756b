import re

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.corpus.sentences import make_sentence
from abhinaya.demo.corpus.synth import spell

CLASS_WORDS = re.compile(
    r"\b(ang(er|ry)|contempt|disgust|fear|afraid|happ(y|ily|iness)|neutral|sad|surpris)",
    re.IGNORECASE,
)


def sentences_of(code, n=200):
    rng = np.random.default_rng(7)
    return [make_sentence(code, rng) for _ in range(n)]


def test_sentences_are_short_speakable_and_never_name_a_class():
    n_checked = 0
    for code in MSP_PODCAST.codes:
        for sentence in sentences_of(code):
            assert not CLASS_WORDS.search(sentence)
            assert re.fullmatch(r"[A-Z][A-Za-z ,]+[.?]", sentence)
            assert 4 <= len(sentence.split()) <= 13
            assert all(len(word) > 0 for word in spell(sentence))
            n_checked += 1
    assert n_checked == 8 * 200


def test_wording_gives_the_emotion_away_often_but_not_always():
    first, codes = [], []
    fresh, fresh_codes = [], []
    for code in MSP_PODCAST.codes:
        sentences = sentences_of(code)
        first, codes = first + sentences[:150], codes + [code] * 150
        fresh, fresh_codes = fresh + sentences[150:], fresh_codes + [code] * 50
    reader = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=500)).fit(first, codes)
    assert 0.6 < reader.score(fresh, fresh_codes) < 0.9
