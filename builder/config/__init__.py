"""Write config.pbtxt: complete, so that Triton guesses nothing, with what somebody edited by hand kept.

`make_config` builds the message for a version, or edits the one that is there; `rules` knows what Triton refuses,
`profiles` which shapes TensorRT builds for, and `pbtxt` changes the text in place so that comments survive.
"""

from builder.config.making import Config, ConfigOptions, ExistingConfig, make_config, point_at, served_version
from builder.config.profiles import Profile, Shapes, make_profiles

__all__ = [
    "Config",
    "ConfigOptions",
    "ExistingConfig",
    "Profile",
    "Shapes",
    "make_config",
    "make_profiles",
    "point_at",
    "served_version",
]
