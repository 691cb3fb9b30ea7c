"""The encoded prompts of a mixer: every class's from the start, others when a mix first needs
them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from diffmix.generator.prompt_encoder import Conditioning, PromptEncoder, join

_CACHE_BYTES = 256 * 2**20  # 2,000 prompts of SD 1.5 in half precision


class PromptTable:
    """Texts to conditioning. `texts` are encoded at once, in order. Owned by one mixer."""

    def __init__(self, encoder: PromptEncoder, texts: Sequence[str]):
        self.texts = list(texts)
        self._encoder = encoder
        self._encoded = encoder.encode(texts)
        self._others: OrderedDict[str, Conditioning] = OrderedDict()
        self._row_bytes = self._encoded.rows([0]).hidden_states.nbytes

    def rows(self, wanted: Sequence[tuple[str, int]]) -> Conditioning:
        """The conditioning of n texts. Each comes with the place in `texts` where it is likely to
        be; two equal texts there may differ in the last bits, so the place decides.
        """
        if all(self.texts[place] == text for text, place in wanted):
            return self._encoded.rows([place for _, place in wanted])
        return join([self._row(text, place) for text, place in wanted])

    def _row(self, text: str, place: int) -> Conditioning:
        if self.texts[place] == text:
            return self._encoded.rows([place])
        if text not in self._others:
            # One by one: in a batch, earlier calls would decide what is encoded together.
            self._others[text] = self._encoder.encode([text])
            if len(self._others) * self._row_bytes > _CACHE_BYTES:
                self._others.popitem(last=False)
        else:
            self._others.move_to_end(text)
        return self._others[text]
