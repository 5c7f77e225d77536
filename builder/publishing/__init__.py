"""Publish a model: load it, make its batch dynamic, name its tensors, prove it, and install it as a new version.

`pipeline` is those steps in order. `bucket` publishes into a repository in object storage.
"""

from builder.publishing.pipeline import Publication, PublishOptions, model_name_of, publish

__all__ = ["Publication", "PublishOptions", "model_name_of", "publish"]
