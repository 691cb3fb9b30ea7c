"""Making mixes with Ray Data: the stream of chunks, the actors that hold mixers, and the store.

`stages.stream` is the way in, `store.MixStore` has what comes out.
"""
