"""The tokenizer as shipped is tested in `test_base.py`."""

from diffmix.nano.tokenizer import learn_merges, write_tokenizer


def test_merges_make_each_word_one_symbol():
    merges = learn_merges(["low", "lower", "low"])
    assert "lower</w>" in {left + right for left, right in merges}
    assert "low</w>" in {left + right for left, right in merges}
    assert merges == learn_merges(["lower", "low"]), "order and repetition do not matter"


def test_words_are_single_tokens_and_prompts_are_cut(tmp_path):
    tokenizer = write_tokenizer(["red", "fox"], tmp_path, 4)
    assert len(tokenizer("red fox").input_ids) == 4
    assert tokenizer("red fox fox fox", truncation=True).input_ids[-1] == tokenizer.eos_token_id
