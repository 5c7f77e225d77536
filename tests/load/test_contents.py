"""The options about what is sent."""

from pathlib import Path

import pytest
from support.load_settings import read

from loadtest.errors import SettingsError


def test_shapes_and_parameters_are_read() -> None:
    contents = read(
        *(
            "--shape",
            "image:3,640,640 input:0:7 mask=1,64",
            "--tolerance",
            "0.01,0",
            "--input-data",
            "some/inputs.json",
        ),
        *("--request-parameter", "n:-3:int 'text:a b:c:string' on:TRUE:bool half:0.5:double"),
    ).contents
    assert contents.shapes == {"image": (3, 640, 640), "input:0": (7,), "mask": (1, 64)}
    assert contents.parameters == {"n": -3, "text": "a b:c", "on": True, "half": 0.5}
    assert (contents.file, contents.tolerance) == (Path("some/inputs.json"), (0.01, 0.0))


def test_inputs_are_random_unless_something_else_is_asked_for() -> None:
    assert (read().contents.file, read().contents.zero) == (None, False)
    assert read("--input-data", "random").contents == read().contents
    assert read("--input-data", "zero").contents.zero


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shape", "image"), "'image' is not the name of an input and its shape"),
        (("--shape", "image:3,0"), "'image:3,0' is not the name"),
        (("--shape", "image:3,99999999999"), "is not the name"),
        (("--shape", "'image:3"), "No closing quotation"),
        (("--request-parameters", "a:b"), "'a:b' is not name:value:type"),
        (("--request-parameters", "a:b:c"), "'b' is not a value of type 'c'"),
        (("--request-parameters", "a:1.5:int"), "'1.5' is not a value of type 'int'"),
        (("--request-parameters", f"a:{1 << 64}:int"), "is not a value of type 'int'"),
        (("--request-parameters", "a:inf:double"), "'inf' is not a value of type 'double'"),
        (("--request-parameters", "a:yes:bool"), "'yes' is not a value of type 'bool'"),
        (("--request-parameters", "sequence_id:1:int"), "sequence_id is set by the load test itself"),
        (("--input-data", "inputs.csv"), "'inputs.csv' is not random, zero, or a .json or .npz file"),
        (("--input-data", "a.json", "--model", "m,n"), "a file can be given for one model only, not for 2"),
        (("--tolerance", "0.1,0"), "there is no such file"),
        (("--tolerance", "0.1", "--input-data", "a.json"), "is not two numbers from 0 up"),
        (("--tolerance", "1,-1", "--input-data", "a.json"), "is not two numbers from 0 up"),
        (("--repository", "/", "--input-data", "zero"), "leave out --input-data, or --repository"),
        (("--repository", "/", "--shape", "a:1"), "leave out --shape, or --repository"),
    ],
)
def test_what_cannot_be_used_is_refused(options: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(*options)
    assert said in str(caught.value)
