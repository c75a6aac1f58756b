from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from abhinaya.config import apply_overrides, dump_yaml
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError, ProblemsError
from abhinaya.files import write_json
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import (
    load_weights,
    read_info,
    read_training_rows,
    save_checkpoint,
    write_training_rows,
)
from abhinaya.registry import load_member
from abhinaya.training.soup import (
    average_weights,
    greedy_choice,
    read_parts,
    soup_digest,
    write_soup,
)

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    write_wavlm(folder / "wavlm", n_layers=1, n_features=16, n_conv_features=8)
    write_whisper(folder / "whisper-encoder", chunk_s=1, n_layers=2, n_features=16)
    return folder


@pytest.fixture
def make_run(bases: Path, tmp_path: Path) -> MakeRun:
    """A function that writes a run with random weights, frozen encoder and linear head."""

    def make(
        name: str,
        *overrides: str,
        member: str = "wavlm",
        seed: int = 0,
        emotions: EmotionSet = MSP_PODCAST,
        prior: list[float] | None = None,
    ) -> Path:
        content = {
            "member": member,
            "name": name,
            "run_dir": str(tmp_path / name),
            "base": str(bases / member),
            "data": {"manifest": "x"},
            "pooling": "mean",
            "audio": {"max_audio_s": 1},
            "head": {"hidden": 0},
            "freeze": "encoder",
            "training": {"global_batch_size": 1},
        }
        config: Any = check_member_config(apply_overrides(content, overrides), "x")
        kind: Any = load_member(member)
        torch.manual_seed(seed)
        model = build_classifier(kind, config, len(emotions))
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter)
        best = tmp_path / name / "best"
        best.mkdir(parents=True)
        save_checkpoint(
            best,
            model,
            config_yaml=dump_yaml(config),
            emotions=emotions,
            metrics={"macro_f1": 0.25, "step": 1, "n_steps": 1},
            facts={"digest": f"digest of {name}", "absorbed_prior": prior, "class_counts": [1] * 8},
        )
        return tmp_path / name

    return make


def write(runs: list[Path], out: Path) -> Path:
    parts = read_parts(runs)
    write_soup(parts, range(len(parts)), out, digest="d", macro_f1=0.5)
    return out


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "best" / "model.safetensors")


def change(run: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = state_of(run)
    edit(state)
    save_file(state, run / "best" / "model.safetensors")


def test_average_weights_by_hand(tmp_path: Path) -> None:
    values = [(1.0, 7), (3.0, 9), (5.0, 11)]
    files = []
    for idx, (value, counter) in enumerate(values):
        tensors = {
            "half": torch.full((2,), value, dtype=torch.bfloat16),
            "full": torch.tensor([[value, -value]]),
            "counter": torch.tensor(counter),
        }
        files.append(tmp_path / f"{idx}.safetensors")
        save_file(tensors, files[-1])
    means = average_weights(files)
    # (1 + 3 + 5) / 3 = 3; a counter stays that of the first.
    assert means["full"].tolist() == [[3, -3]]
    assert means["half"].tolist() == [3, 3]
    assert means["half"].dtype == torch.bfloat16
    assert means["counter"].item() == 7


def test_average_weights_of_equal_files_is_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"w": torch.randn(1_000, generator=torch.Generator().manual_seed(0))}, file)
    means = average_weights([file] * 3)
    assert torch.equal(means["w"], load_file(file)["w"])


def test_write_soup_is_a_run_like_any_other(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("one"), make_run("two", "seed=0", "training.learning_rate=0.1", seed=1)]
    out = write(runs, tmp_path / "mix")
    ours, first, second = state_of(out), *map(state_of, runs)
    assert ours.keys() == first.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    info = read_info(out / "best")
    assert info.emotions == MSP_PODCAST
    assert info.metrics == {"macro_f1": 0.5, "step": None, "n_steps": None}
    assert info.config["name"] == "mix"
    assert info.config["run_dir"] == str(out)
    # The rest of the config is that of the first.
    assert info.config["training"] == read_info(runs[0] / "best").config["training"]
    assert info.facts["soup"] == [
        {"run": str(run), "digest": f"digest of {name}"}
        for run, name in zip(runs, ("one", "two"), strict=True)
    ]
    assert yaml.safe_load((out / "config.yaml").read_text())["name"] == "mix"
    kind: Any = load_member("wavlm")
    config: Any = check_member_config(info.config, "x")
    model = build_classifier(kind, config, len(MSP_PODCAST))
    load_weights(out / "best", model)  # accounts for every key
    assert torch.equal(model.head.last_linear.weight, ours["head.out.weight"])


def test_write_soup_takes_the_chosen_alone(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("one"), make_run("two", seed=1)]
    change(runs[0], lambda state: state["head.out.weight"].fill_(torch.nan))
    write_soup(read_parts(runs), [1], tmp_path / "mix", digest="d")
    ours = state_of(tmp_path / "mix")["head.out.weight"]
    assert torch.equal(ours, state_of(runs[1])["head.out.weight"])
    facts = read_info(tmp_path / "mix" / "best").facts
    assert facts["soup"] == [{"run": str(runs[1]), "digest": "digest of two"}]


def test_write_soup_averages_adapters_alike(make_run: MakeRun, tmp_path: Path, bases: Path) -> None:
    options = {"member": "whisper-encoder"}
    runs = [
        make_run(name, "lora.rank=2", "pointwise=[4]", seed=seed, **options)
        for seed, name in enumerate(("one", "two"))
    ]
    out = write(runs, tmp_path / "mix")
    file = Path("best", "adapter", "adapter_model.safetensors")
    ours, first, second = (load_file(run / file) for run in (out, *runs))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    # The adapter for the full model holds what the checkpoint holds.
    state = state_of(out)
    inner = "backbone.encoder.layers.1.fc1.lora_A.default.weight"
    outer = "base_model.model.model.encoder.layers.1.fc1.lora_A.weight"
    assert torch.equal(state[inner], ours[outer])
    whole = WhisperForConditionalGeneration.from_pretrained(bases / "whisper-encoder")
    loaded = peft.PeftModel.from_pretrained(whole, str(out / "best" / "adapter"))
    fc1 = loaded.base_model.model.model.encoder.layers[1].fc1
    assert torch.equal(fc1.lora_A["default"].weight, ours[outer])


def test_read_parts_what_only_concerns_training_may_differ(make_run: MakeRun) -> None:
    overrides = [
        "training.learning_rate=0.5",
        "loss.name=focal",
        "audio.train_crop=first",
        "head.dropout=0.1",
        "spec_augment=false",
        "inference.batch_size=2",
        "data.train=all",
        "balance.reweight_from_epoch=1",
        "loss.class_weights=inverse",
    ]
    first, other = read_parts([make_run("one"), make_run("two", *overrides)])
    assert (first.config.name, other.config.name) == ("one", "two")
    whisper = {"member": "whisper-encoder"}
    runs = [make_run(f"w-{p}", f"pointwise_dropout={p}", **whisper) for p in (0.1, 0.2)]
    assert len(read_parts(runs)) == 2


AB = EmotionSet.from_codes(tuple("CADFHNSU"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"member": "whisper-encoder"}, "base is .*wavlm in the one and .*whisper-encoder"),
        ({"emotions": AB}, "the class order is A C D F H N S U in the one and C A D F H N S U"),
        ({"overrides": ["layer_weights=true"]}, "layer_weights is False in the one and True"),
        ({"overrides": ["audio.normalize=true"]}, "audio.normalize is False in the one and True"),
        ({"overrides": ["head.hidden=4"]}, "head.hidden is 0 in the one and 4 in the other"),
        ({"prior": [0.125] * 8}, "the prior that the loss absorbed is None in the one and"),
    ],
)
def test_read_parts_other_architecture_raises(
    make_run: MakeRun, options: dict[str, Any], message: str
) -> None:
    overrides = options.pop("overrides", [])
    runs = [make_run("one"), make_run("two", *overrides, **options)]
    with pytest.raises(
        CheckpointError, match=rf"'.*one' and '.*two' cannot be averaged: {message}"
    ):
        read_parts(runs)


def test_read_parts_other_base_comes_before_other_settings(
    make_run: MakeRun, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_wavlm(other, n_layers=1, n_features=16, n_conv_features=8)
    runs = [make_run("one"), make_run("two", f"base={other}", "audio.normalize=true")]
    with pytest.raises(CheckpointError, match=r"base is .*wavlm in the one and .*other"):
        read_parts(runs)


def test_read_parts_other_tensors_raise(make_run: MakeRun) -> None:
    first, other = make_run("one"), make_run("two")
    whole = state_of(other)
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        ({"more": torch.zeros(1)}, "'more' of model.safetensors is absent in the one and F32"),
        (
            {"head.out.bias": torch.zeros(3)},
            r"'head.out.bias' of model.safetensors is F32 \[8\] in the one and F32 \[3\]",
        ),
        (
            {"head.out.bias": whole["head.out.bias"].half()},
            r"'head.out.bias' of model.safetensors is F32 \[8\] in the one and F16 \[8\]",
        ),
    ]
    for changed, message in cases:
        save_file({**whole, **changed}, other / "best" / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            read_parts([first, other])
    save_file(whole, other / "best" / "model.safetensors")
    (other / "best" / "adapter").mkdir()
    save_file(whole, other / "best" / "adapter" / "adapter_model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"of adapter/adapter_model\.safetensors is absent in the one"
    ):
        read_parts([first, other])
    (other / "best" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"model\.safetensors' cannot be read"):
        read_parts([first, other])


def test_read_parts_wrong_runs_raise(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one")
    with pytest.raises(BadValueError, match="at least two runs, got 1"):
        read_parts([run])
    with pytest.raises(BadValueError, match=r"one' is named more than once"):
        read_parts([run, tmp_path / "x" / ".." / "one"])
    with pytest.raises(MissingFileError, match="is no checkpoint"):
        read_parts([run, tmp_path / "none"])


def test_greedy_choice_by_hand() -> None:
    # Order of the scores: 2 (.5), 0 (.4), 3 (.4), 1 (.3). Adding 0 lowers the score, 3 keeps it,
    # 1 raises it.
    asked: list[list[int]] = []
    answers = {(2, 0): 0.45, (2, 3): 0.5, (2, 3, 1): 0.55}

    def score_of(chosen: Any) -> float:
        asked.append(list(chosen))
        return answers[tuple(chosen)]

    assert greedy_choice([0.4, 0.3, 0.5, 0.4], score_of) == ([2, 3, 1], 0.55)
    assert asked == [[2, 0], [2, 3], [2, 3, 1]]


def test_write_soup_was_trained_on_what_its_parts_were(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(name) for name in ("one", "two", "old", "unused")]
    for run, names in ((runs[0], ["b", "a"]), (runs[1], ["c", "b"]), (runs[3], ["d"])):
        facts = dict(read_info(run / "best").facts)
        facts["training_rows"] = write_training_rows(run / "best", names)
        write_json(run / "best" / "facts.json", facts)
    out = tmp_path / "mix"
    write_soup(read_parts(runs), [0, 1, 2], out, digest="d")
    assert read_training_rows(out / "best", read_info(out / "best").facts) == ["a", "b", "c"]
    same = write([runs[2], make_run("older")], tmp_path / "unknown")
    assert read_training_rows(same / "best", read_info(same / "best").facts) is None


def test_greedy_choice_may_stay_with_the_best_run() -> None:
    assert greedy_choice([0.4, 0.6], lambda chosen: 0.5) == ([1], 0.6)


def test_soup_digest_depends_on_weights_and_recipe(make_run: MakeRun) -> None:
    one, two = make_run("one"), make_run("two", seed=1)
    parts = read_parts([one, two])
    digest = soup_digest(parts, {"kind": "uniform"})
    assert soup_digest(parts, {"kind": "uniform"}) == digest
    assert soup_digest(parts, {"kind": "greedy"}) != digest
    change(two, lambda state: state["head.out.bias"].add_(1))
    assert soup_digest(parts, {"kind": "uniform"}) != digest


def test_write_soup_impossible_name_raises(make_run: MakeRun, tmp_path: Path) -> None:
    parts = read_parts([make_run("one"), make_run("two")])
    with pytest.raises(ProblemsError, match="name is 'my soup'"):
        write_soup(parts, [0, 1], tmp_path / "my soup", digest="d")
    assert not (tmp_path / "my soup").exists()
