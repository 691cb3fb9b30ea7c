"""What an option is: its type, bounds, unit, text and source, all read from the field of
`diffmix.config` that declares it.
"""

from diffmix.options.option import Option, groups, options

__all__ = ["Option", "groups", "options"]
