"""Inputs and outputs of the graph, and operators that are refused wherever they are."""

from support.batched import Case

LSTM_WEIGHTS = "int8[1, 3, 8] w; int8[1, 2, 8] v; float[1] scale; int8[1] zero"
LENGTH = "the size of its output depends on the values of the samples"
ALWAYS = {
    "NonZero": ("float[B, 3] x", "y = NonZero(x)", LENGTH),
    "Unique": ("float[B, 3] x", "y = Unique(x)", LENGTH),
    "StringSplit": ("string[B, 3] x", "y, n = StringSplit(x)", LENGTH),
    "Tokenizer": ("string[B, 3] x", 'y = com.microsoft.Tokenizer <mark = 0, mincharnum = 1, pad_value = "#", '
                  'separators = [" "]> (x)', LENGTH),
    "RandomNormalLike": ("float[B, 3] x", "y = RandomNormalLike(x)", "draws random numbers"),
    "RandomUniform": ("float[B, 3] x", "r = RandomUniform <shape = [3]> () y = Add(x, r)", "draws random numbers"),
    "Bernoulli": ("float[B, 3] x", "a = Abs(x) b = Sigmoid(a) y = Bernoulli(b)", "draws random numbers"),
    "Multinomial": ("float[B, 3] x", "y = Multinomial <sample_size = 2> (x)", "draws random numbers"),
    "Range": ("int64[B] n", "s = Squeeze(n) z = Constant <value = int64 {0}> () o = Constant <value = int64 {1}> () "
              "y = Range(z, s, o)", "size is computed from the samples"),
    "ConstantOfShape": ("int64[B] n", "s = Squeeze(n) q = Constant <value = int64[1] {0}> () u = Unsqueeze(s, q) "
                        "y = ConstantOfShape(u)", "size is computed from the samples"),
    "HannWindow": ("int64[B] n", "s = Squeeze(n) y = HannWindow(s)", "size is computed from the samples"),
    "NonMaxSuppression": ("float[B, 5, 4] b; float[B, 1, 5] s", "m = Constant <value = int64[1] {2}> () "
                          "y = NonMaxSuppression(b, s, m)", "one list of boxes for the whole batch"),
    "DynamicQuantizeLSTM": ("float[4, B, 3] x", "y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 2> "
                            '(x, w, v, "", "", "", "", "", scale, zero, scale, zero)',
                            "computes a scale over the whole batch"),
}  # fmt: skip

CASES = [
    *(
        Case(name, inputs, body,
             LSTM_WEIGHTS if "LSTM" in name else "",
             batches=[1], opset=20, refused={1: reason}, axes={"x": 1} if "LSTM" in name else {}, below={"n": (2, 4)})
        for name, (inputs, body, reason) in ALWAYS.items()
    ),
    Case("an output that is an input", "float[B, 3] x", "y = Relu(x)", outputs=["y"]),
    Case("one value twice", "float[B, 3] x", "y = Relu(x) z = Identity(y)", outputs=["y", "z"]),
    Case("a constant output with a row for each sample", "float[B, 3] x", "y = Relu(x) z = Identity(w)",
         "float[B, 2] w",
         equal={"w": 0}, outputs=["y", "z"]),
    Case("a constant output without rows", "float[B, 3] x", "y = Relu(x) z = Identity(w)", "float[5, 2] w",
         outputs=["y", "z"]),
    Case("an output with several rows of each sample", "float[B, 3, 4] x", "y = Reshape(x, s)", "int64[2] s = {3B, 4}"),
    Case("an output with rows of samples behind one another", "float[B, 3, 4] x",
         "t = Transpose <perm = [1, 0, 2]> (x) y = Reshape(t, s)", "int64[2] s = {3B, 4}"),
    Case("an output of rank 1", "float[B, 3] x", "y = ReduceMax <axes = [1], keepdims = 0> (x)"),
    Case("an output whose batch is not in front", "float[B, 3] x", "y = Transpose(x)"),
    Case("an input whose batch is not in front", "float[3, B, 4] x", "y = Relu(x)", axes={"x": 1}),
    Case("an input of rank 1", "float[B] x", "y = Relu(x)"),
    Case("an input with several rows of each sample", "float[B, 4] d; int64[5B] i",
         "v = Gather(e, i) q = Reshape(v, s) r = ReduceSum <keepdims = 0> (q, one) y = Add(r, d)",
         "float[30, 4] e; int64[3] s = {B, 5, 4}; int64[1] one = {1}", axes={"i": 0}, below={"i": 30}, batches=[2, 3]),
    Case("an input with several rows of each sample on its last axis", "float[B, 5] d; float[2, 5B] x",
         "t = Transpose(x) q = Reshape(t, s) r = ReduceMax <axes = [2], keepdims = 0> (q) y = Mul(r, d)",
         "int64[3] s = {B, 5, 2}", axes={"x": 1}, batches=[2, 3]),
    Case("an input with several rows, beside a batch of one sample", "float[1, 4] d; float[5, 4] x",
         "y = Add(d, x)", axes={"x": 0}, batches=[1], refused={1: "the inputs have different batches"}),
    Case("an input whose samples take turns, where their rows have to lie together", "float[B, 4] d; float[5B, 4] x",
         "q = Reshape(x, s) r = ReduceSum <keepdims = 0> (q, zero) y = Add(r, d)",
         "int64[3] s = {5, B, 4}; int64[1] zero = {0}", axes={"x": 0}, batches=[3],
         refused={3: "Reshape 'q': "}),
    Case("an input whose rows are no multiple of the samples", "float[3, 4] d; float[7, 4] x", "y = Relu(d)",
         batches=[3], axes={"x": 0}, refused={3: "the inputs have different batches: d [3, 4], x [7, 4]"}),
    Case("an input that is one sample", "float[6, 3] x",
         "y = Softmax <axis = 0> (x) m = ReduceMax <axes = [0]> (x) s = ReduceSum <keepdims = 0> (x) c = Identity(w)",
         "float[6, 2] w", outputs=["y", "m", "s", "c"], batches=[1], axes={"x": None}),
    Case("two inputs that are one sample", "float[4, 3] x; float[3] v", "y = MatMul(x, v)", batches=[1],
         axes={"x": None, "v": None}),
    Case("a sum over all samples", "float[B, 3] x", "y = ReduceSum <keepdims = 0> (x)",
         refused={1: "reduces over axis 0, which holds the batch", 3: "reduces over axis 0, which holds the batch"}),
    Case("several reasons", "float[B, 3] x", "a = Softmax <axis = 0> (x) b = ReduceMax <axes = [0]> (x) y = Add(a, b)",
         refused={1: "normalizes over axis 0", 3: "reduces over axis 0"}),
    Case("opset 7 repeats a constant without Expand", "float[B, 3] x", "y = Concat <axis = 1> (w, x)", "float[B, 2] w",
         equal={"w": 0}, opset=7),
]  # fmt: skip
