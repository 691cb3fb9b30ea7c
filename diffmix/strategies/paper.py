"""The eight strategies that the paper compares: {base model, tokens, tokens + LoRA} x {from noise,
within a class, between classes}.
"""

from diffmix.strategies.strategy import Strategy

STRATEGIES = (
    Strategy(name="real-gen", generator="base", from_noise=True),
    Strategy(name="real-aug", generator="base", target="same"),
    Strategy(name="real-mix", generator="base"),
    Strategy(name="ti-aug", generator="tokens", target="same"),
    Strategy(name="ti-mix", generator="tokens"),
    Strategy(name="diff-gen", generator="concept", from_noise=True),
    Strategy(name="diff-aug", generator="concept", target="same"),
    Strategy(name="diff-mix", generator="concept"),
)
