"""What the progress display prints."""

from engine.progress import Display

EPOCH = {"event": "train", "epoch": 0, "loss": 1.25, "pool": 24}


def test_the_latest_of_each_kind_is_one_line(capsys):
    display = Display(every_seconds=0.0)
    step = {"event": "personalize_step", "step": 3, "steps": 9, "loss": 0.5}
    mixes = [{"event": "mix", "mixes": 8}] * 3
    display.on_events([step, *mixes, {"event": "split"}, EPOCH])
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "personalizing: step 3/9, loss 0.500 | mixing: 24 made | training: epoch 1," in line
    assert "24 mixes available" in line


def test_nothing_new_prints_nothing(capsys):
    display = Display(every_seconds=0.0)
    display.on_events([])
    display.on_events([{"event": "start"}])
    display.close()
    assert capsys.readouterr().err == ""


def test_events_wait_for_the_next_line(capsys):
    display = Display(every_seconds=3600.0)
    display.on_events([EPOCH])
    assert capsys.readouterr().err == ""
    display.every_seconds = 0.0
    display.on_events([])
    assert "training: epoch 1" in capsys.readouterr().err


def test_a_note_is_printed_at_once(capsys):
    display = Display(every_seconds=3600.0)
    display.on_events([{"event": "note", "text": "memory ran out"}, EPOCH])
    assert capsys.readouterr().err.endswith("s] Note: memory ran out.\n")
