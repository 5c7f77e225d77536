"""Refuse options that contradict a config early, before a model is proven for them."""

from builder.config import pbtxt, scheduling, settings
from builder.config.interface import is_partial
from builder.config.options import ConfigOptions
from builder.config.parameters import parameter_problems
from builder.config.pbtxt import messages
from builder.config.plans import forget_plans, leave_plans, other_files
from builder.config.rules import MODEL_FILES
from builder.config.unknown import check_spelling
from builder.errors import RepositoryError


def check_options(
    options: ConfigOptions, existing: str | None, *, backend: str, has_batch: bool, where: object
) -> None:
    """Refuse options that contradict the config that is there. What depends on the version, `make_config` checks.

    Args:
        options: What the caller asks for.
        existing: The text of config.pbtxt; None if there is none.
        backend: The backend that will load the version.
        has_batch: Whether the version will have a batch, if the config does not say it.
        where: The file, for messages.

    Raises:
        RepositoryError: The config cannot be read, a field of it is misspelled, or an option contradicts it or could
            have no effect.
        ModelError: A file of labels cannot be used.
    """
    config = messages().ModelConfig()
    if existing is None:
        config.instance_group.add()
        config.dynamic_batching.SetInParent()
    else:
        config.CopyFrom(pbtxt.parse(existing, where=where))
        check_spelling(existing, where=where)
    if is_partial(config) and config.max_batch_size == 0:
        config.max_batch_size = int(has_batch)
    if backend != "tensorrt":
        leave_plans(config)
    forget_plans(config)
    config.backend, config.platform = backend, ""
    settings.check(config, options, where=where)
    checks = (
        scheduling.instance_problems,
        scheduling.cache_problems,
        scheduling.metric_problems,
        parameter_problems,
    )
    own = {config.default_model_filename or MODEL_FILES[backend]}
    if reasons := [*other_files(config, own), *(reason for check in checks for reason in check(config))]:
        fix = "change the options" if existing is None else "change the options of publish, or this file"
        raise RepositoryError(where, "; ".join(reasons[:10]), fix)
