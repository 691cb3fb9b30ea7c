"""Vectors of new tokens: which ones a text encoder can read, and how they get into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmix.generator.base_model import is_xl, text_parts

if TYPE_CHECKING:
    import torch

    from diffmix.generator.base_model import Pipeline


def spell(token: str, vectors: int) -> list[str]:
    """The tokenizer entries of a token of several vectors, as diffusers names them: `<a>`, `<a>_1`,
    `<a>_2`.
    """
    return [token, *(f"{token}_{i}" for i in range(1, vectors))]


def checked(
    tokens: dict[str, str], vectors: int, table: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A table of token -> float32 [vectors, dim] of another's making, whose tokens may have a
    single vector [dim].

    `tokens` is class name -> token; each has `vectors` vectors. Raises `ValueError` for a table
    that no text encoder could read.
    """
    import torch

    owners: dict[str, str] = {}
    for class_name, token in tokens.items():
        other = owners.setdefault(token, class_name)
        if other != class_name:
            raise ValueError(f"the classes {other!r} and {class_name!r} have one token, {token}")
        if token not in table:
            raise ValueError(f"there are none for {token}, the token of {class_name!r}")
    found = {}
    for token, rows in table.items():
        if not isinstance(rows, torch.Tensor) or not rows.is_floating_point():
            raise ValueError(f"those of {token} are no floating-point numbers")
        rows = rows.detach().float()
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or 0 in rows.shape:
            raise ValueError(f"those of {token} have the shape {tuple(rows.shape)}")
        if token in owners and len(rows) != vectors:
            raise ValueError(f"{token} has {len(rows)}, and others have {vectors}")
        if not rows.isfinite().all():
            raise ValueError(f"those of {token} are not finite")
        found[token] = rows
    widths = {rows.shape[1]: token for token, rows in found.items()}
    if len(widths) > 1:
        (one, first), (other, second) = list(widths.items())[:2]
        raise ValueError(f"those of {first} have {one} values, those of {second} {other}")
    return found


def split_rows(tokens: dict[str, str], vectors: int, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """A table from the rows of all tokens, one below the other. Raises `ValueError` where there are
    not `vectors` for each.
    """
    if rows.ndim != 2 or len(rows) != vectors * len(tokens):
        raise ValueError(
            f"there are {len(rows) if rows.ndim else 1} rows for {len(tokens)} tokens of {vectors}"
        )
    return dict(zip(tokens.values(), rows.split(vectors), strict=True))


def add_tokens(
    pipe: Pipeline, embeds: dict[str, torch.Tensor], embeds_2: dict[str, torch.Tensor] | None = None
) -> None:
    """Add tokens with their vectors (float [vectors, dim]) to a pipeline, all at once and under the
    names that diffusers gives them.

    `embeds_2` are the vectors of an SDXL's second text encoder. The outcome is that of
    `pipe.load_textual_inversion` for one token after another, which takes minutes for many classes.
    Raises `ValueError` for a token that is there already or that the tokenizer cannot read, vectors
    of another size, or vectors for another number of text encoders.
    """
    import torch

    if bool(embeds_2) != is_xl(pipe):
        raise ValueError(
            f"token vectors for {2 if embeds_2 else 1} text encoders, where the base has "
            f"{len(text_parts(pipe))}"
        )
    for (tokenizer, encoder), table in zip(text_parts(pipe), (embeds, embeds_2), strict=False):
        assert table is not None
        spelled = {token: spell(token, len(rows)) for token, rows in table.items()}
        names = [name for entries in spelled.values() for name in entries]
        vectors = torch.cat(list(table.values()))
        check_width(vectors.shape[1], encoder.get_input_embeddings().weight.shape[1])
        first = len(tokenizer)
        added, ids = tokenizer.add_tokens(names), tokenizer.convert_tokens_to_ids(names)
        if added != len(names) or ids != list(range(first, first + len(names))):
            raise ValueError("some of its tokens are in the tokenizer already")
        for token, entries in spelled.items():
            text = pipe.maybe_convert_prompt(token, tokenizer)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            if ids != tokenizer.convert_tokens_to_ids(entries):
                # Such as upper case, of which diffusers spells out the first vector alone.
                raise ValueError(f"the tokenizer does not read all {len(entries)} of {token!r}")
            most = tokenizer.model_max_length - 2  # beside those of start and end
            if len(ids) > most:
                raise ValueError(f"{len(ids)} vectors for {token}, where a prompt has {most}")
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        weight = encoder.get_input_embeddings().weight
        with torch.no_grad():
            weight[tokenizer.convert_tokens_to_ids(names)] = vectors.to(weight)


def check_width(width: int, wanted: int) -> None:
    """Raise `ValueError` where vectors of `width` values are no text encoder's of `wanted`."""
    if width != wanted:
        raise ValueError(f"token vectors of {width} values for a text encoder of {wanted}")
