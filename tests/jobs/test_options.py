import pytest

from diffmix.config import Config, to_dict
from diffmix.config_check import check
from diffmix.errors import UserError
from jobs.cli import main
from jobs.options import load, option_names, parse


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
        ],
        "run",
        "",
    )
    assert config.mix.strength == (0.3, 0.9)
    assert config.mix.gamma == 0.8
    assert config.train.epochs == 7
    assert config.placement.mixers == (1, 4)


def test_written_configuration_reads_back(tmp_path):
    import yaml

    config = parse(
        ["--mix.strength", "0.9", "--data.train", "x y", "--train.baseline", "True"], "run", ""
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    assert load(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--mix.strenght", "1"], "did you mean --mix.strength?"),
        (["run", "--gama", "1"], "did you mean --mix.gamma?"),
        (["rum"], "did you mean run?"),
        (
            ["evaluate", "--run.seeds", "3", "4", "--out", "x"],
            "takes one seed's configuration, such as --config x/seed-3/config.yaml.",
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
        ("mix: {gamma: high}", r"mix\.gamma in .* is 'high', which does not fit"),
        ("mix: 3", "is a group of options"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("run: {mode: sideways}", r"run\.mode in .* which does not fit"),
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
    ],
)
def test_values_that_cannot_be_meant(arguments):
    with pytest.raises(UserError, match=arguments[0][2:].replace(".", r"\.")):
        check(parse(arguments, "run", ""))


def test_a_samplers_lora_needs_its_sampler():
    with pytest.raises(
        UserError,
        match=r"--mix\.sampler is dpm, but it must be lcm or tcd where mix\.sampler_lora is set",
    ):
        check(parse(["--mix.sampler_lora", "x"], "run", ""))
    check(parse(["--mix.sampler_lora", "x", "--mix.sampler", "tcd"], "run", ""))


def test_a_batch_is_a_number_or_auto(tmp_path):
    assert parse(["--mix.batch", "auto"], "run", "").mix.batch == "auto"
    assert parse(["--mix.batch", "8"], "run", "").mix.batch == 8
    check(parse(["--mix.batch", "auto"], "run", ""))
    (tmp_path / "bad.yaml").write_text("mix: {batch: many}")
    with pytest.raises(UserError, match=r"mix\.batch in .* is 'many', which does not fit"):
        load(str(tmp_path / "bad.yaml"))


def test_default_configuration_is_valid():
    check(Config())


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--help"], "run", "")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name in option_names(Config):
        assert f"--{name}" in text
    assert "default: 25" in text
