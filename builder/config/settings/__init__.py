"""Write what the caller asked for into a config, field by field.

`apply` calls the writers in order. `batching` writes the queue and its priorities, `instances` where the model runs,
`tensorrt` what only GPUs do, `tables` the entries of maps, `labels` the files with the names of classes, and
`assigning` any other field by its path, which `paths` reads. `owned` lists the fields that only the proof or another
option sets.

An option that could have no effect is refused: the caller would believe that it had one.
"""

from builder.config.settings.applying import apply, check, check_usage, notes
from builder.config.settings.labels import LABEL_FILE, file_problems
from builder.config.settings.paths import PathError

__all__ = ["LABEL_FILE", "PathError", "apply", "check", "check_usage", "file_problems", "notes"]
