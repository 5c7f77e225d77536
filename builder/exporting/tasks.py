"""The tasks of models in transformers' format, by the names that the Hugging Face Hub has for them."""

from collections.abc import Mapping
from difflib import get_close_matches

from builder.errors import ModelError

TASKS: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("AutoModelForSequenceClassification",),
    "token-classification": ("AutoModelForTokenClassification",),
    "question-answering": ("AutoModelForQuestionAnswering",),
    "multiple-choice": ("AutoModelForMultipleChoice",),
    "fill-mask": ("AutoModelForMaskedLM",),
    "text-generation": ("AutoModelForCausalLM",),
    "text2text-generation": ("AutoModelForSeq2SeqLM",),
    "feature-extraction": ("AutoModel",),
    "image-classification": ("AutoModelForImageClassification",),
    "image-segmentation": (
        "AutoModelForImageSegmentation",
        "AutoModelForSemanticSegmentation",
        "AutoModelForUniversalSegmentation",
        "AutoModelForInstanceSegmentation",
    ),
    "object-detection": ("AutoModelForObjectDetection",),
    "depth-estimation": ("AutoModelForDepthEstimation",),
    "image-to-image": ("AutoModelForImageToImage",),
    "video-classification": ("AutoModelForVideoClassification",),
    "zero-shot-image-classification": ("AutoModelForZeroShotImageClassification",),
    "document-question-answering": ("AutoModelForDocumentQuestionAnswering",),
    "audio-classification": ("AutoModelForAudioClassification",),
    "audio-frame-classification": ("AutoModelForAudioFrameClassification",),
    "audio-xvector": ("AutoModelForAudioXVector",),
    "automatic-speech-recognition": ("AutoModelForCTC", "AutoModelForSpeechSeq2Seq"),
}
"""transformers' classes for each task: the first one that has a model of this kind is taken."""

_ALIASES = {
    "sentiment-analysis": "text-classification",
    "zero-shot-classification": "text-classification",
    "text-ranking": "text-classification",
    "ner": "token-classification",
    "masked-lm": "fill-mask",
    "causal-lm": "text-generation",
    "summarization": "text2text-generation",
    "translation": "text2text-generation",
    "image-feature-extraction": "feature-extraction",
    "semantic-segmentation": "image-segmentation",
}
"""Other names of the same."""

CLASSIFICATION = ("text-classification", "image-classification", "audio-classification", "video-classification")
"""The tasks whose `logits` are one number for each class."""

WITH_DECODER = ("text2text-generation", "automatic-speech-recognition", "feature-extraction")
"""The tasks in which a client sends the tokens that were decoded so far."""


def task_named(source: str, task: str) -> str:
    """Return a task by its name or another name of it.

    Raises:
        ModelError: There is no such task.
    """
    name = task.strip().lower()
    chosen = _ALIASES.get(name, name)
    if chosen not in TASKS:
        close = get_close_matches(name, (*TASKS, *_ALIASES), 1)
        fix = f"use --task {close[0]}" if close else f"use one of {', '.join(TASKS)}"
        raise ModelError(source, f"there is no task {task!r}", fix)
    return chosen
