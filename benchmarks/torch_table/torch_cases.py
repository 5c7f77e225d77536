"""What is published, and what is expected of it: the rows of the table that `run_table.py` prints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RIGHT = ""
"""Published, with the module's answers."""


@dataclass(frozen=True)
class Case:
    """A module, the options that it is published with, and the expected outcome.

    Attributes:
        group: What kind of module it is.
        name: Its name in the table.
        module: What is published: `torch_nets:UNet`.
        inputs: The inputs as on the command line, separated by spaces.
        expected: `RIGHT`, or a regular expression that the message of the refusal matches.
        dynamic: The values of `--dynamic`, separated by spaces.
        options: Other options.
        values: What the judge draws for an input, if not normal numbers; see `torch_judge.draw`.
        sizes: The sizes of the dynamic axes that the judge tries. They are not those of `inputs`.
        axes: The axis of the batch, by input, if it is not axis 0.
        outputs: The same by the position of the output.
        truth: The module whose answers are right, if it is not the one that is published.
        kept: The positions of the outputs that are published, if not all.
        constants: Other arguments of `forward`.
        arguments: The arguments of the factory.
        is_declared: The source says itself which inputs it has, so that `--input` is left out.
    """

    group: str
    name: str
    module: str
    inputs: str
    expected: str = RIGHT
    dynamic: str = ""
    options: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[Mapping[str, int], ...] = ({},)
    axes: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[int, int] = field(default_factory=dict)
    truth: str = ""
    kept: tuple[int, ...] | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_declared: bool = False

    @property
    def is_static(self) -> bool:
        """Whether it is published without a batch."""
        return "--static" in self.options

    def command(self) -> list[str]:
        """Return the arguments of `publish`."""
        inputs = [part for text in self.inputs.split() for part in ("--input", text)]
        dynamic = [part for text in self.dynamic.split() for part in ("--dynamic", text)]
        axes = [part for name, axis in self.axes.items() for part in ("--batch-axis", f"{name}={axis}")]
        return [self.module, *([] if self.is_declared else inputs + dynamic), *axes, *self.options]

    def job(self, model: str) -> dict[str, Any]:
        """Return what the judge is asked about the published file."""
        names = {(name, int(axis)): label for text in self.dynamic.split() for name, axis, label in _named(text)}
        inputs = []
        for text in self.inputs.split():
            name, dtype, dims = re.fullmatch(r"([\w.]+)=(\w+)\[(.*)\]", text).groups()  # type: ignore[union-attr]
            shape = [names.get((name, axis), int(dim)) for axis, dim in enumerate(dims.split(","))]
            spec = {"name": name.replace(".", "_"), "dtype": dtype, "shape": shape, "axis": self.axes.get(name, 0)}
            inputs.append(spec | {"values": self.values.get(name, "normal")})
        return {
            "name": self.name,
            "module": self.truth or self.module,
            "model": model,
            "inputs": inputs,
            "sizes": self.sizes,
            "outputs": self.outputs,
            "is_static": self.is_static,
            "kept": self.kept,
            "constants": self.constants,
            "arguments": self.arguments,
        }


def _named(text: str) -> list[tuple[str, str, str]]:
    """Return input, axis and name of each part of `image:2=height,3=width`."""
    name, _, axes = text.partition(":")
    return [(name, *part.split("=")) for part in axes.split(",")]  # type: ignore[misc]


TEXT = "input_ids=int64[1,16] attention_mask=int64[1,16]"
TEXT_AXES = "input_ids:1=length attention_mask:1=length"
TEXT_VALUES = {"input_ids": "ids 99", "attention_mask": "prefix"}
LENGTHS: tuple[Mapping[str, int], ...] = ({"length": 5}, {"length": 16}, {"length": 41})
PICTURE = "image=float32[1,3,16,16]"
PICTURE_AXES = "image:2=height,3=width"


def picture(*sizes: tuple[int, int]) -> tuple[Mapping[str, int], ...]:
    """Return heights and widths."""
    return tuple({"height": height, "width": width} for height, width in sizes)


def steps(*sizes: int) -> tuple[Mapping[str, int], ...]:
    """Return numbers of steps."""
    return tuple({"time": size} for size in sizes)


def text(name: str, factory: str, *, inputs: str = TEXT, axes: str = TEXT_AXES, **more: Any) -> Case:
    """Return a case of a text model with any length."""
    drawn: dict[str, Any] = {"values": TEXT_VALUES, "sizes": LENGTHS}
    return Case("text", name, f"torch_hf:{factory}", inputs, dynamic=axes, **drawn | more)


def pixels(name: str, factory: str, *sizes: tuple[int, int], side: int = 32, **more: Any) -> Case:
    """Return a case of an image model; with sizes, its height and width are dynamic."""
    inputs = f"pixel_values=float32[1,3,{side},{side}]"
    axes = "pixel_values:2=height,3=width" if sizes else ""
    return Case("vision", name, f"torch_hf:{factory}", inputs, dynamic=axes, sizes=picture(*sizes) or ({},), **more)


def own(group: str, name: str, inputs: str, expected: str = RIGHT, *, module: str = "", **more: Any) -> Case:
    """Return a case of a module in `torch_nets.py`."""
    return Case(group, name, f"torch_nets:{module or name}", inputs, expected, **more)


SIGNAL = "signal=float32[1,8,6]"
SIGNAL_AXES = "signal:1=time"
IDS_ONLY: dict[str, Any] = {
    "inputs": "input_ids=int64[1,16]",
    "axes": "input_ids:1=length",
    "values": {"input_ids": "ids 99"},
}

CASES: tuple[Case, ...] = (
    text("BERT, classification", "bert"),
    text("RoBERTa", "roberta"),
    text("DistilBERT, tokens", "distilbert"),
    text("ALBERT", "albert"),
    text("DeBERTa v2", "deberta"),
    text("MPNet", "mpnet"),
    text("ModernBERT", "modernbert"),
    text("T5, encoder", "t5"),
    text("BART, two lengths", "bart",
         inputs="input_ids=int64[1,16] attention_mask=int64[1,16] decoder_input_ids=int64[1,7]",
         axes=TEXT_AXES + " decoder_input_ids:1=target",
         values=TEXT_VALUES | {"decoder_input_ids": "ids 99"},
         sizes=({"length": 5, "target": 9}, {"length": 30, "target": 3})),
    text("CLIP, text", "clip_text"),
    text("Llama", "llama"),
    text("Llama, length only", "llama", **IDS_ONLY),
    text("Qwen 2", "qwen2"),
    text("Mistral, sliding window", "mistral"),
    text("Mixtral, experts", "mixtral", expected=r"grouped_mm"),
    text("Mixtral, experts by batched_mm", "mixtral_in_batches"),
    text("GPT-2", "gpt2", **IDS_ONLY),
    text("Mamba, fixed length", "mamba", inputs="input_ids=int64[1,6]", axes="",
         values={"input_ids": "ids 99"}, sizes=({},)),
    text("Llama with a cache among its outputs", "llama_with_cache", expected=r"use_cache=False"),
    text("Llama with a cache, --output logits", "llama_with_cache", options=("--output", "logits"), kept=(0,)),
    Case("text", "Llama, one step with its past", "torch_hf:DecoderStep",
         "input_ids=int64[1,1] attention_mask=int64[1,8] past_key=float32[1,2,7,8] past_value=float32[1,2,7,8]",
         dynamic="attention_mask:1=total past_key:2=past past_value:2=past",
         values={"input_ids": "ids 99", "attention_mask": "ones"},
         sizes=({"past": 4, "total": 5}, {"past": 19, "total": 20})),
    pixels("ViT", "vit"),
    pixels("DeiT", "deit"),
    pixels("DINOv2, any size", "dinov2", (32, 32), (48, 24)),
    pixels("Swin", "swin"),
    pixels("ConvNeXt, any size", "convnext", (32, 32), (64, 96), side=64),
    pixels("Segformer, any size", "segformer", (32, 64), (96, 96), side=64),
    pixels("Depth Anything", "depth_anything"),
    pixels("DETR", "detr"),
    pixels("SAM, image encoder", "sam", side=64),
    pixels("CLIP, vision", "clip_vision"),
    own("vision", "ResidualNet", PICTURE, dynamic=PICTURE_AXES, sizes=picture((16, 16), (5, 9), (40, 24))),
    own("vision", "UNet, any size divisible by 8", "image=float32[1,3,32,32]", module="UNet", dynamic=PICTURE_AXES,
        sizes=picture((8, 16), (32, 32), (40, 64))),
    own("vision", "MobileBlock", PICTURE, dynamic=PICTURE_AXES, sizes=picture((7, 5), (32, 48))),
    own("vision", "DetectionHead", "image=float32[1,3,32,32]", dynamic=PICTURE_AXES, sizes=picture((32, 32), (64, 40))),
    own("vision", "FeaturePyramid", PICTURE, dynamic=PICTURE_AXES, sizes=picture((16, 16), (17, 30))),
    own("vision", "SuperResolution", PICTURE, dynamic=PICTURE_AXES, sizes=picture((16, 16), (7, 30))),
    own("vision", "Deformable, grid_sample", PICTURE, module="Deformable", dynamic=PICTURE_AXES,
        sizes=picture((16, 16), (7, 30))),
    own("vision", "PatchMerging, padded to windows", PICTURE, module="PatchMerging", dynamic=PICTURE_AXES,
        sizes=picture((16, 16), (7, 30))),
    own("vision", "NormalizedBytes", "image=uint8[1,8,8,3]", values={"image": "bytes"}),
    own("vision", "Volume", "scan=float32[1,1,8,8,8]"),
    own("vision", "OneSample, view(1, -1)", "image=float32[1,1,8,8]", module="OneSample"),
    Case("audio", "Whisper, encoder", "torch_hf:whisper", "input_features=float32[1,16,100]"),
    Case("audio", "Wav2Vec2, 400 samples at least", "torch_hf:wav2vec2", "input_values=float32[1,1600]",
         dynamic="input_values:1=time", sizes=steps(400, 1600, 3331),
         values={"input_values": "different"}),  # normalizing a constant signal leaves nothing but rounding errors
    Case("audio", "Audio spectrogram transformer", "torch_hf:audio_spectrogram", "input_values=float32[1,32,16]"),
    own("audio", "Wave, 400 samples at least", "audio=float32[1,16000]", module="Wave", dynamic="audio:1=time",
        sizes=steps(400, 16000, 23456)),
    own("audio", "Spectrogram, stft", "audio=float32[1,512]", module="Spectrogram"),
    own("audio", "Spectrum, rfft", "signal=float32[1,32]", module="Spectrum"),
    own("audio", "Causal", "signal=float32[1,4,20]", dynamic="signal:2=time", sizes=steps(1, 20, 33)),
    own("sequences", "TwoLengths", "text=float32[1,6,16] memory=float32[1,9,16] memory_mask=int64[1,9]",
        dynamic="text:1=length memory:1=time memory_mask:1=time", values={"memory_mask": "prefix"},
        sizes=({"length": 6, "time": 9}, {"length": 11, "time": 3})),
    own("sequences", "PaddedEncoder", "ids=int64[1,10] mask=bool[1,10]", dynamic="ids:1=length mask:1=length",
        values={"ids": "ids 50", "mask": "prefix"}, sizes=({"length": 3}, {"length": 23})),
    own("sequences", "Forecast", "series=float32[1,32]", dynamic="series:1=time", sizes=steps(12, 32, 100)),
    own("sequences", "Graph", "nodes=float32[1,5,4] source=int64[1,9] target=int64[1,9]",
        dynamic="source:1=edges target:1=edges", values={"source": "ids 5", "target": "ids 5"},
        sizes=({"edges": 9}, {"edges": 30})),
    own("sequences", "Viterbi", "scores=float32[1,6,4]"),
    own("sequences", "Gated, a float mask", "x=float32[1,5,4] mask=float32[1,5]", module="Gated",
        values={"mask": "prefix"}),
    own("recurrent", "States on axis 1", "x=float32[1,4,6] h=float32[2,1,8] c=float32[2,1,8]", module="States",
        axes={"h": 1, "c": 1}, outputs={1: 1, 2: 1}),
    own("recurrent", "TimeMajor", "signal=float32[5,1,6]", axes={"signal": 1}, outputs={0: 1}),
    own("recurrent", "Bidirectional", SIGNAL, dynamic=SIGNAL_AXES, sizes=steps(1, 8, 21)),
    own("recurrent", "Packed", SIGNAL + " lengths=int64[1]", r"torch_nets\.py:\d+: `return self\.lstm\(packed\)"),
    own("recurrent", "CellLoop, fixed length", SIGNAL, module="CellLoop"),
    own("recurrent", "CellLoop, any length", SIGNAL, r"frozen at torch_nets\.py:\d+: `for step in range",
        module="CellLoop", dynamic=SIGNAL_AXES),
    own("control flow", "Condition", "x=float32[1,8]", r"(?s)(?=.*--per-sample)(?=.*--static)"),
    own("control flow", "Condition, --per-sample", "x=float32[1,8]", module="Condition", options=("--per-sample",)),
    own("control flow", "Condition, --static", "x=float32[1,8]", module="Condition", options=("--static",)),
    own("control flow", "SizeBranch", SIGNAL, r"torch_nets\.py:\d+: `return signal\.mean", dynamic=SIGNAL_AXES),
    own("control flow", "ValueBranch", "x=float32[1,4]", r"torch_nets\.py:\d+: `return x \* 2 if"),
    own("control flow", "Leaky, a rare branch", "x=float32[1,2]", r"torch_nets\.py:\d+: `return y \* 3 if",
        module="Leaky"),
    own("control flow", "UntilStable", "x=float32[1,4]", r"torch_nets\.py:\d+: `while"),
    own("control flow", "Keep, drops rows", "x=float32[1,8]", r"rows|depends on the values", module="Keep"),
    own("control flow", "Nonzero", "x=float32[1,8]", r"depends on the values|rows"),
    own("control flow", "Mixed, subtracts the batch's mean", "x=float32[1,4]",
        r"axis 0, which holds the batch|differently in a batch", module="Mixed"),
    own("random", "LeftOnDropout", "x=float32[1,8]", r"torch_nets\.py:\d+: `return F\.dropout(.|\n)*random"),
    own("random", "Autoencoder", "x=float32[1,8]", r"torch_nets\.py:\d+: `return self\.decode(.|\n)*random"),
    own("random", "Draw, multinomial", "scores=float32[1,8]",
        r"torch_nets\.py:\d+: `return torch\.multinomial(.|\n)*random", module="Draw"),
    own("stateful", "Counter", "x=float32[1,4]", r"call|state"),
    own("stateful", "Remembers, a moving average", "x=float32[1,4]", r"call|state", module="Remembers"),
    own("stateful", "Scratch, a buffer that keeps nothing", "x=float32[1,4,4]", module="Scratch"),
    own("stateful", "BatchStatistics", "x=float32[1,4,6]", r"batch"),
    own("stateful", "Left in training mode", "input=float32[1,8]", module="left_in_training"),
    own("types", "Float64", "input=float64[1,8]", module="double"),
    own("types", "Float64, erf", "x=float64[1,8]", r"float32", module="DoubleError"),
    own("types", "BF16", "input=bfloat16[1,8]", r"float32", module="brain_float"),
    own("types", "Float16", "input=float16[1,8]", module="half"),
    own("types", "Bits", "x=int64[1,6]", values={"x": "ids 1000"}),
    own("types", "Sorting", "x=float32[1,8]", values={"x": "different"}),
    own("types", "Rotary, complex numbers", "x=float32[1,6,4]", module="Rotary"),
    own("types", "Quantized by PyTorch", "input=float32[1,8]", r"cannot be exported|quantized", module="quantized"),
    own("writing", "Nested outputs", "x=float32[1,3,4]", module="Nested"),
    own("writing", "InPlace", "x=float32[1,4]"),
    own("writing", "Tied", "ids=int64[1,6]", dynamic="ids:1=length", values={"ids": "ids 50"}, sizes=LENGTHS),
    own("writing", "NumpyDetour", "x=float32[1,4]", r"torch_nets\.py:\d+: `return self\.layer\(torch\.from_numpy"),
    own("writing", "torch.compile", PICTURE, module="compiled", truth="torch_nets:MobileBlock"),
    own("writing", "torch.jit.script, a loop", "signal=float32[1,8,6]", module="scripted", dynamic=SIGNAL_AXES,
        sizes=steps(1, 8, 21)),
    own("writing", "torch.jit.trace", "input=float32[1,16]", module="traced"),
    own("writing", "Extra, an output without a batch", "x=float32[1,4]", r"classes", module="Extra"),
    own("writing", "Extra, --output scores", "x=float32[1,4]", module="Extra", kept=(0,),
        options=("--output", "scores")),
    own("writing", "Temperature, --constant", "x=float32[1,4]", module="Temperature", constants={"temperature": 0.7},
        options=("--constant", "temperature=0.7")),
    own("writing", "A factory with arguments", "input=float32[1,8]", module="network(width=6, depth=3)",
        truth="torch_nets:network", arguments={"width": 6, "depth": 3}),
    own("writing", "DictInput, a dictionary and a tuple", "features.image=float32[1,4] features.depth=float32[1,4] "
        "state.0=float32[1,4] state.1=float32[1,4]", module="DictInput", truth="torch_nets:FlatInput"),
    Case("files", "A program, static.pt2", "static.pt2", "image=float32[1,3,16,16]", is_declared=True,
         truth="torch_nets:MobileBlock"),
    Case("files", "A program with a dynamic batch, dynamic.pt2", "dynamic.pt2", "image=float32[1,3,16,16]",
         is_declared=True, truth="torch_nets:MobileBlock"),
    Case("files", "TorchScript with a loop, scripted.pt", "scripted.pt", SIGNAL, dynamic=SIGNAL_AXES,
         sizes=steps(1, 8, 21), truth="torch_nets:Recurrence"),
    Case("files", "A trace, traced.pt", "traced.pt", "input=float32[1,16]", truth="torch_nets:traced"),
    Case("files", "Weights, weights.pth", "weights.pth", "x=float32[1,4]", r"state_dict", is_declared=True),
    Case("files", "A checkpoint, lightning.ckpt", "lightning.ckpt", "x=float32[1,4]", r"state_dict", is_declared=True),
    Case("files", "A Hugging Face folder", "hf:bert", TEXT + " token_type_ids=int64[1,16]",
         dynamic=TEXT_AXES + " token_type_ids:1=length", sizes=LENGTHS,
         values=TEXT_VALUES | {"token_type_ids": "ids 2"},
         options=("--task", "text-classification"), truth="torch_hf:bert", is_declared=True),
)  # fmt: skip
