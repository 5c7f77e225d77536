"""A model in a folder that transformers has saved: its class by the task, and its inputs by the config.

The folder is data: its weights are safetensors, code in it (`auto_map`) is not imported, and nothing is downloaded
while it is loaded.

Source: https://huggingface.co/docs/transformers/main_classes/model and /model_doc/auto
"""

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from builder.errors import HostError, ModelError
from builder.exporting.found import Found
from builder.exporting.hub import Folder, open_folder
from builder.exporting.model_inputs import Declared, Facts, declared_inputs
from builder.exporting.options import ExportOptions, InputSpec
from builder.exporting.tasks import CLASSIFICATION, TASKS, task_named
from builder.installing import install
from builder.user_code import UserCode

_LOAD_FIX = "try it in Python with transformers' from_pretrained; if that works, publish it through a factory of yours"


def find(source: str, request: ExportOptions) -> Found:
    """Load `hf:FOLDER`, or `hf:OWNER/NAME` if it may be downloaded.

    Raises:
        ModelError: It is no such folder, the task does not fit, or its inputs are not known.
        HostError: transformers is not installed, or the download fails.
    """
    folder = open_folder(source, revision=request.revision, is_download=request.is_download)
    model, task = load(folder, request.task)
    declared = inputs_of(folder, model, task)
    if not (request.inputs or declared.inputs):
        what = f"the inputs of {type(model).__name__} are not known"
        parameters = ", ".join(inspect.signature(model.forward).parameters)
        raise ModelError(source, what, f"add --input for each that it needs: {parameters}")
    return Found(
        module=model,
        inputs=request.inputs or declared.inputs,
        dynamic=request.dynamic if request.inputs or request.is_static else _merged(declared, request.dynamic),
        origin=folder.origin,
        labels=folder.labels if task in CLASSIFICATION else (),
        notes=tuple(_notes(folder, task, () if request.inputs else declared.inputs)),
    )


def _merged(declared: Declared, given: Mapping[str, Mapping[int, str]]) -> dict[str, dict[int, str]]:
    """Return the names of the dynamic axes: those given, and those that the model declares for the other inputs.

    Axes that the model gives one name have one size. So a new name for one of them is a new name for all.
    """
    new = {
        label: given[name][axis]
        for name, axes in declared.dynamic.items()
        for axis, label in axes.items()
        if axis in given.get(name, {})
    }
    renamed = {
        name: {axis: new.get(label, label) for axis, label in axes.items()} for name, axes in declared.dynamic.items()
    }
    return {**renamed, **{name: dict(axes) for name, axes in given.items()}}


def _notes(folder: Folder, task: str, declared: Sequence[InputSpec]) -> Iterator[str]:
    """Yield what was chosen for the user."""
    shown = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in declared)
    yield f"{folder.origin} for {task}{f'; inputs {shown}' if shown else ''}"
    if folder.config.get("auto_map"):
        yield "the folder has code of its own, which is not run: this is the class that transformers has"


def load(folder: Folder, task: str | None) -> tuple[nn.Module, str]:
    """Return the model of a folder in evaluation mode, in float32, and its task.

    Args:
        folder: The folder.
        task: The task; None if the config decides it.

    Raises:
        ModelError: The task does not fit the model, or its class is not known, or its weights do not fit its config.
    """
    with _quiet_and_offline():
        config = _config(folder)
        chosen, classes = _class_for(folder, config, task)
        model = _load(folder, config, classes)
    for each in _configs(model):
        each.use_cache = False
        each.output_attentions = each.output_hidden_states = False
        each.return_dict = True
    return model.cpu().eval(), chosen


def inputs_of(folder: Folder, model: nn.Module, task: str) -> Declared:
    """Return the inputs that a model takes for a task, with the sizes that its config gives, and its dynamic axes."""
    parameters = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    facts = Facts(
        task=task,
        main=main[0] if isinstance(main, list | tuple) else main,
        parameters=tuple(parameters),
        required=tuple(name for name, each in parameters.items() if each.default is each.empty and _is_named(each)),
        configs=tuple(_as_dict(each) for each in (model.config, *_parts(model.config))),
        preprocessor=folder.preprocessor,
        tokenizer=folder.tokenizer,
    )
    return declared_inputs(facts)


def _configs(model: nn.Module) -> Iterator[Any]:
    """Yield every config that a part of the model reads: decoders have copies of their own."""
    for part in model.modules():
        if (config := getattr(part, "config", None)) is not None:
            yield config
            yield from _parts(config)


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _parts(config: Any) -> Iterator[Any]:
    """Yield the configs inside a config, such as those of the text and of the images of CLIP."""
    from transformers import PretrainedConfig

    for each in list(vars(config).values()):
        if isinstance(each, PretrainedConfig):
            yield each
            yield from _parts(each)


def _as_dict(config: Any) -> Mapping[str, Any]:
    """Return a config's values by transformers' common names: `hidden_size` also where a config calls it `n_embd`."""
    return {**{name: getattr(config, name, None) for name in config.attribute_map}, **vars(config)}


def _config(folder: Folder) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = folder.config["model_type"]
    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in folder.config:
            what = f"{kind!r} is a model with code of its own in the folder, which is not run"
            fix = "if you trust the code, load it with trust_remote_code=True in a factory of yours, and publish that"
            raise ModelError(folder.source, what, fix)
        import transformers

        what = f"transformers {transformers.__version__} has no model of the type {kind!r}"
        raise ModelError(folder.source, what, "update transformers, or load it in a factory of your own")
    with UserCode(folder.source, "its config cannot be read", _LOAD_FIX):
        return AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)


def _class_for(folder: Folder, config: Any, task: str | None) -> tuple[str, Any]:
    """Return the task, and transformers' class for a model of this kind with it."""
    fitting = {name: found for name in TASKS if (found := _class_by_task(config, name)) is not None}
    if task is not None:
        chosen = task_named(folder.source, task)
        if chosen not in fitting:
            what = f"transformers has no {folder.config['model_type']} model for {chosen}"
            raise ModelError(folder.source, what, f"use one of its tasks: {_listed(fitting)}")
        return chosen, fitting[chosen]
    saved = folder.architectures
    named = {name: found for name, found in fitting.items() if found.__name__ in saved}
    if "text2text-generation" in named:
        named.pop("fill-mask", None)  # BART is trained for it, and nobody asks it for that
    if len(named) == 1:
        return next(iter(named.items()))
    options = named or fitting
    if not options:
        what = f"no task is known for a model of the type {folder.config['model_type']!r}"
        raise ModelError(folder.source, what, "load it in a factory of your own, and publish that: nets:make")
    what = f"the task is not clear from its class, {' and '.join(saved) or 'which the config does not name'}"
    raise ModelError(folder.source, what, f"add --task with one of {_listed(options)}")


def _listed(tasks: Mapping[str, Any]) -> str:
    return ", ".join(tasks) or "none; load it in a factory of your own, and publish that"


def _class_by_task(config: Any, task: str) -> Any:
    """Return the class for the task, or None if this kind of model has none."""
    import transformers

    for name in TASKS[task]:
        mapping = getattr(transformers, name)._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            classes = found if isinstance(found, tuple | list) else (found,)
            saved = config.architectures or ()
            return next((each for each in classes if each.__name__ in saved), classes[0])
    return None


def _load(folder: Folder, config: Any, model_class: Any) -> nn.Module:
    """Load the weights, and refuse a model of which some would be random.

    Raises:
        ModelError: Weights are missing, or have other shapes than the config says.
    """
    model, missing = _load_as(folder, config, model_class)
    if missing and all(name.startswith("pooler.") for name in missing) and _can_leave_out_pooler(model_class):
        model, missing = _load_as(folder, config, model_class, add_pooling_layer=False)
    if missing:
        saved = f", which was saved from {' and '.join(folder.architectures)}" if folder.architectures else ""
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        what = f"there are no weights for {', '.join(missing[:3])}{more} of {model_class.__name__} in the folder{saved}"
        raise ModelError(folder.source, what, "use the task that it was trained for, or train it for this one first")
    return model


def _load_as(folder: Folder, config: Any, model_class: Any, **arguments: Any) -> tuple[nn.Module, list[str]]:
    with UserCode(folder.source, f"{model_class.__name__} cannot be loaded", _LOAD_FIX):
        model, found = model_class.from_pretrained(
            folder.path,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **arguments,
        )
    return model, sorted(found["missing_keys"])


def _can_leave_out_pooler(model_class: Any) -> bool:
    return "add_pooling_layer" in inspect.signature(model_class.__init__).parameters


@contextlib.contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """Let transformers print nothing and ask no server.

    Raises:
        HostError: It is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import transformers
        from huggingface_hub import constants
    except ImportError as error:
        what = f"transformers cannot be imported: {error}"
        raise HostError("transformers", what, install("transformers")) from error
    logging = transformers.utils.logging
    level, bars, offline = logging.get_verbosity(), logging.is_progress_bar_enabled(), constants.HF_HUB_OFFLINE
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
