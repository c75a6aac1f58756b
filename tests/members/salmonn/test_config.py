"""Configs of the SALMONN members: what goes together, and every message of what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import salmonn_golden as G

from abhinaya.config import apply_overrides, config_digest, dump_yaml, load_yaml, merge
from abhinaya.errors import ProblemsError
from abhinaya.member_config import check_member_config, load_member_config
from abhinaya.resources import configs_dir
from members.salmonn.config import SalmonnConfig

CONTENT = {
    "member": "salmonn-13b",
    "name": "tiny",
    "run_dir": "runs/tiny",
    "data": {"manifest": "manifest.parquet"},
    "base": "vicuna",
    "whisper": "whisper",
    "beats": "beats.pt",
    "salmonn": "salmonn_v1.pth",
    "prompt": "salmonn-speech-v1",
    "training": {"global_batch_size": 8},
}
FIXED = {"audio": {"train_crop": "first"}}
POOL = {"prompt_pool": {"file": "test_prompt.json"}}


def check(**changes):
    config = check_member_config(merge(CONTENT, changes), "mine.yaml")
    assert isinstance(config, SalmonnConfig)
    return config


def problems_of(**changes):
    with pytest.raises(ProblemsError) as caught:
        check(**changes)
    return caught.value.problems


def test_defaults_are_those_of_the_published_model():
    config = check()
    assert config.prompt == ("salmonn-speech-v1",)
    assert (config.lora.alpha, config.lora.dropout) == (32, 0.1)
    assert config.window_s == pytest.approx(1 / 3, abs=1e-6)
    assert config.stride_s is None
    assert config.prompt_template == G.CONFIG["prompt_template"] == "USER: {}\nASSISTANT:"
    assert config.max_text_tokens == G.CONFIG["salmonn"]["max_txt_len"] == 300
    assert (config.compat, config.prompt_sampling) == ("none", "fixed")
    assert config.cache is None
    assert config.classifier is None


def test_pool_reads_the_task_of_the_published_prompt_file():
    pool = check(**POOL).prompt_pool
    assert pool is not None
    assert pool.task == "emotion_recognition"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (FIXED | {"cache": {"dir": "store"}}, "cache"),
        (FIXED | {"cache_encoders": True}, "cache"),
        ({"trim_padding": True}, "trim_padding"),
        (FIXED | {"cache": {"dir": "store"}, "trim_padding": True}, "cache and trim_padding"),
    ],
)
def test_published_computation_goes_without_cache_and_trimming(changes, named):
    (problem,) = problems_of(compat="published", **changes)
    assert problem.startswith(f"{named} cannot be set where compat is 'published', because")
    assert problem.endswith("Remove it (or cache_encoders), or set compat to none")
    assert check(compat="none", **changes).compat == "none"


def test_random_sampling_of_one_prompt_raises():
    (problem,) = problems_of(prompt_sampling="random")
    assert problem == (
        "prompt_sampling is random but there is one prompt. Name several under prompt, give a "
        "prompt_pool, or set prompt_sampling to fixed"
    )
    assert check(prompt_sampling="random", **POOL).prompt_sampling == "random"
    two = ["salmonn-speech-v1", "salmonn-speech-v2"]
    assert check(prompt_sampling="random", prompt=two).prompt == tuple(two)


def test_several_prompts_beside_a_pool_raise():
    (problem,) = problems_of(prompt=["salmonn-speech-v1", "salmonn-speech-v2"], **POOL)
    assert problem.startswith("prompt names 2 prompts, but prompt_pool brings the user turns. Name")


@pytest.mark.parametrize("template", ["USER:\nASSISTANT:", "{} {}", ""])
def test_template_without_one_place_raises(template):
    (problem,) = problems_of(prompt_template=template)
    assert problem == ("prompt_template: must have {} exactly once, where the user's turn goes")


def test_empty_list_of_prompts_raises():
    assert problems_of(prompt=[]) == ("prompt: is empty; name at least one prompt",)


def test_all_mistakes_are_told_at_once_with_near_names():
    found = problems_of(
        wisper="whisper",
        lora={"rank": 8, "alfa": 1, "dropout": 1},
        llm_weights="fp8",
        window_s=0,
        max_text_tokens=0,
        prompt=[],
        prompt_pool={"file": "x.json", "tasks": "y"},
        compat="publishd",
        cache_encoders="yes",
    )
    text = "\n".join(found)
    for expected in (
        "wisper is unknown, did you mean whisper?",
        "lora.rank is unknown",
        "lora.alfa is unknown, did you mean lora.alpha?",
        "lora.dropout is 1, expected less than 1",
        "llm_weights is 'fp8', expected",
        "window_s is 0, expected greater than 0",
        "max_text_tokens is 0, expected greater than 0",
        "prompt: is empty",
        "prompt_pool.tasks is unknown, did you mean prompt_pool.task?",
        "compat is 'publishd', expected",
        "cache_encoders is 'yes', expected a valid boolean",
    ):
        assert expected in text, expected
    assert len(found) == 11


def test_missing_places_are_all_named():
    content = {key: CONTENT[key] for key in ("member", "name", "data", "training")}
    with pytest.raises(ProblemsError) as caught:
        check_member_config(content | {"cache_encoders": True}, "mine.yaml")
    assert sorted(caught.value.problems) == [
        f"{key} is missing" for key in ("base", "beats", "prompt", "run_dir", "salmonn", "whisper")
    ]


# ------------------------------------------------------------------ the store of features


def test_cache_encoders_puts_a_store_beside_the_run():
    config = check(cache_encoders=True, **FIXED)
    assert config.cache is not None
    assert config.cache.dir == Path("runs/encoder-cache")


def test_cache_of_its_own_goes_before_the_short_form():
    config = check(cache_encoders=True, cache={"dir": "elsewhere", "max_gb": 3}, **FIXED)
    assert config.cache is not None
    assert (config.cache.dir, config.cache.max_gb) == (Path("elsewhere"), 3)


def test_cache_encoders_false_means_no_store():
    assert check(cache_encoders=False, **FIXED).cache is None


def test_short_form_is_spelled_out_in_the_stored_config():
    """A run's own config has to let `cache=null` win, where the store is not at hand."""
    config = check(cache_encoders=True, **FIXED)
    stored = config.model_dump(mode="json")
    assert check_member_config(stored, "config.yaml") == config
    without = check_member_config(apply_overrides(stored, ["cache=null"]), "config.yaml")
    assert without.cache is None
    # So whether features are stored does not make another run of it.
    plain = check(**FIXED)
    assert config_digest(config, without=["cache"]) == config_digest(plain, without=["cache"])


def test_store_with_random_crops_tells_what_to_set():
    (problem,) = problems_of(cache_encoders=True)
    assert "audio.train_crop is 'random'; set it to first, centre, full or a number" in problem
    assert problem.endswith("or remove cache")


def test_run_dir_that_is_no_path_is_reported():
    (problem,) = problems_of(run_dir=7, cache_encoders=True, **FIXED)
    assert problem.startswith("run_dir is 7, ")


# ------------------------------------------------------------------ shipped files


SHIPPED = sorted((configs_dir() / "members").glob("salmonn-*.yaml"))


def test_shipped_configs_are_of_this_class_and_survive_being_stored(tmp_path):
    assert len(SHIPPED) >= 4
    overrides = ["data.manifest=manifest.parquet"]
    for file in SHIPPED:
        config = load_member_config(file, overrides)
        if "zero-shot" in file.stem:
            continue
        assert isinstance(config, SalmonnConfig), file.name
        (tmp_path / file.name).write_text(dump_yaml(config))
        again = check_member_config(load_yaml(tmp_path / file.name), file.name)
        assert again == config, file.name


def test_shipped_configs_train_with_the_published_numbers():
    """The class weights of `-published` ones are in tests/test_configs.py."""
    for file in SHIPPED:
        if "zero-shot" in file.stem:
            continue
        config = load_member_config(file, ["data.manifest=manifest.parquet"])
        assert isinstance(config, SalmonnConfig)
        is_published = file.stem.endswith("-published")
        assert (config.loss.class_weights == "inverse") != is_published, file.name
        assert (config.head.hidden, config.head.norm) == (1024, "none"), file.name
        assert config.lora.alpha == 32, file.name
        if config.member == "salmonn-7b-speech-text":
            assert (config.loss.class_counts is None) != is_published, file.name
            assert config.data.transcripts is not None, file.name
