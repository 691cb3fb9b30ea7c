"""Command line and recipes to a `Config`.

Covers `diffmix/config/*.py` and `diffmix/config_check.py` too.
"""

import pytest

from diffmix.config import Config, MixConfig, to_dict
from diffmix.config_check import check
from diffmix.errors import UserError
from jobs.cli import main
from jobs.options import load, parse


def test_recipe_inheritance_and_overrides(tmp_path):
    (tmp_path / "common.yaml").write_text("mix: {strength: 0.5, gamma: 0.8}\ntrain: {epochs: 3}\n")
    (tmp_path / "child.yaml").write_text("inherit: common.yaml\nmix: {strength: [0.3, 0.9]}\n")
    config = parse(
        [
            "--config",
            str(tmp_path / "child.yaml"),
            "--train.epochs",
            "7",
            "--placement.mixers",
            "1",
            "4",
        ]
    )
    assert config.mix.strength == (0.3, 0.9)
    assert config.mix.gamma == 0.8
    assert config.train.epochs == 7
    assert config.placement.mixers == (1, 4)


def test_written_configuration_reads_back(tmp_path):
    import yaml

    config = parse(["--mix.strength", "0.9", "--data.train", "x y", "--train.baseline", "True"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    assert load(str(tmp_path / "config.yaml")) == config


def test_relative_paths_begin_in_the_current_folder_in_files_too(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text(
        "inherit: parent.yaml\nout: runs/a\ndata: {train: 'cub:CUB'}\n"
    )
    (tmp_path / "recipes" / "parent.yaml").write_text("personalize: {concept: concepts/birds}\n")
    monkeypatch.chdir(tmp_path)
    words = ["--config", "recipes/mine.yaml", "--model.base", "./sd15", "--compose.stores", "a"]
    config = parse(words)
    assert config.out == f"{tmp_path}/runs/a"
    assert config.data.train == f"cub:{tmp_path}/CUB"
    assert config.personalize.concept == f"{tmp_path}/concepts/birds"
    assert config.model.base == f"{tmp_path}/sd15"
    assert config.compose.stores == (f"{tmp_path}/a",)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--data.train", "nano", "--out", "runs/a"],
        ["export", "--out", "/runs/a", "--export.to", "there"],
    ],
)
def test_a_submitted_job_keeps_nothing_in_its_copy_of_the_folder(arguments, monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"diffmix: {arguments[-2]} {arguments[-1]} "
        "is relative, but a submitted job's folder is deleted afterwards; give an absolute path or "
        "a URI.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--mix.strenght", "1"], "did you mean --mix.strength?"),
        (["run", "--gama", "1"], "did you mean --mix.gamma?"),
        (["rum"], "did you mean run?"),
        (["run", "out"], "out is not an option of diffmix run; options begin with two dashes"),
        (
            ["run", "--run.mode", "stagd"],
            "--run.mode is stagd, but it must be overlapped or staged; did you mean staged?",
        ),
        (["run", "--mix.gamma", "high"], "--mix.gamma is high, but it must be a number above 0."),
        (["run", "--mix.gamma"], "--mix.gamma is empty, but it must be a number above 0."),
        (["run", "--mix.gamma", "1", "2"], "--mix.gamma is 1 2, but it must be a number above 0."),
        (["run", "--mix.strength"], "--mix.strength is empty, but it must be one or more numbers"),
        (["run", "--train.pretrained", "maybe"], "is maybe, but it must be True or False."),
        (["run", "--config"], "--config is empty, but it must be the name of a YAML file."),
        (
            ["evaluate", "--run.seeds", "3", "4", "--out", "x"],
            "takes one seed's configuration, such as --config ",
        ),
        (["run", "--config", "/nowhere.yaml"], "cannot be read"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mix: {strenght: 0.5}", r"mix\.strenght in .* did you mean --mix\.strength\?"),
        ("mix: {gamma: high}", r"mix\.gamma in .* is high, but it must be a number above 0"),
        ("mix: 3", "is a group of options"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "not valid YAML"),
        (
            "run: {mode: sideways}",
            r"run\.mode in .* is sideways, but it must be overlapped or staged\.",
        ),
    ],
)
def test_bad_recipes(tmp_path, text, sentence):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mix.strength", "0"],
        ["--mix.strength", "1.2"],
        ["--mix.strength", "0.01"],
        ["--mix.synthetic_p", "1.5"],
        ["--mix.synthetic_p", "-0.1"],
        ["--data.val_fraction", "1"],
        ["--placement.mixers", "0"],
        ["--placement.mixers", "3", "1"],
        ["--train.batch_size", "7", "--placement.trainers", "2"],
        ["--personalize.global_batch_size", "3", "--placement.personalizers", "4"],
        ["--personalize.tokens", "False", "--personalize.lora", "False"],
        ["--run.train_after", "2"],
        ["--run.seed", "-1"],
        ["--mix.strength_beta", "2", "5", "--mix.num_inference_steps", "4"],
        ["--run.seeds", "1", "1"],
        ["--train.drw_epoch", "160", "--train.reweight", "drw"],
        ["--train.reweight_beta", "1"],
        ["--train.cmo", "True", "--train.mixup_alpha", "1"],
        ["--train.cmo_skip", "100", "20", "--train.cmo", "True"],
        ["--train.cmo_probability", "1.5"],
        ["--train.ldam_scale", "0"],
        ["--train.focal_gamma", "-1"],
        ["--train.lr_drop_epochs", "9", "3"],
        ["--train.freeze_epochs", "121"],
        ["--train.hue", "0.6"],
        ["--evaluate.few_below", "30"],
        ["--mix.batch", "0"],
        ["--mix.guidance_interval", "0.5", "0.2"],
        ["--mix.guidance_interval", "0", "1.5"],
        ["--mix.num_inference_steps", "100", "--mix.sampler", "lcm"],
        ["--mix.gamma", "nan"],
        ["--train.lr", "inf"],
        ["--train.zero_stage", "4"],
        ["--placement.mixers", "1", "2", "3"],
        ["--compose.share", "0.5", "--compose.count", "3"],
        ["--compose.count", "1", "2", "--compose.stores", "a", "b", "c"],
    ],
)
def test_values_that_cannot_be_meant(arguments):
    with pytest.raises(UserError, match=arguments[0][2:].replace(".", r"\.")):
        check(parse(arguments))


def test_a_samplers_lora_needs_its_sampler():
    with pytest.raises(
        UserError,
        match=r"--mix\.sampler is dpm, but it must be lcm or tcd where mix\.sampler_lora is set",
    ):
        check(parse(["--mix.sampler_lora", "x"]))
    check(parse(["--mix.sampler_lora", "x", "--mix.sampler", "tcd"]))


def test_a_batch_is_a_number_or_auto(tmp_path):
    assert parse(["--mix.batch", "auto"]).mix.batch == "auto"
    assert parse(["--mix.batch", "8"]).mix.batch == 8
    check(parse(["--mix.batch", "auto"]))
    (tmp_path / "bad.yaml").write_text("mix: {batch: many}")
    with pytest.raises(
        UserError, match=r"mix\.batch in .* is many, but it must be a whole number above 0, or auto"
    ):
        load(str(tmp_path / "bad.yaml"))


def test_a_configuration_made_in_python_has_the_same_bounds():
    with pytest.raises(
        UserError,
        match=r"--mix\.strength is 0\.5 1\.2, but it must be one or more numbers above 0",
    ):
        check(Config(mix=MixConfig(strength=(0.5, 1.2))))


def test_default_configuration_is_valid():
    check(Config())


def test_words_become_values():
    config = parse(
        [
            *("--placement.mixers", "4", "16"),
            *("--train.pretrained", "False"),
            *("--mix.strength=0.3",),
            *("--mix.strength-beta", "2", "5"),
            *("--personalize.prompts", "a {token}", "two words {token}"),
            *("--personalize.initializer", "42170"),
            *("--run.seeds",),
            *("--gate.clip", "None"),
            *("--mix.negative_prompt", "None"),
        ]
    )
    assert config.placement.mixers == (4, 16)
    assert config.train.pretrained is False
    assert config.mix.strength == (0.3,)
    assert config.mix.strength_beta == (2.0, 5.0)
    assert config.personalize.prompts == ("a {token}", "two words {token}")
    assert config.personalize.initializer == 42170  # a token's number; other words are a text
    assert config.run.seeds == ()
    assert config.gate.clip is None
    assert config.mix.negative_prompt == "None", "an option that cannot be None takes it as a word"


def test_dotted_options_win_over_files_and_later_files_over_earlier(tmp_path):
    for name, gamma in (("a", 0.6), ("b", 0.7)):
        (tmp_path / f"{name}.yaml").write_text(f"mix: {{gamma: {gamma}, count: 5}}\n")
    files = [f"--config={tmp_path / 'a.yaml'}", "--config", str(tmp_path / "b.yaml")]
    assert parse(files).mix.gamma == 0.7
    config = parse(["--mix.count", "None", *files])
    assert (config.mix.gamma, config.mix.count) == (0.7, None)
