"""Outputs that a node leaves out: their name is "", and they may stand in front of those that it has."""

from support.batched import Case

BODIES = {
    "LayerNormalization": 'n, "", i = LayerNormalization(v, g, b) y = Mul(n, i)',
    "SimplifiedLayerNormalization": 'n, "" = SimplifiedLayerNormalization(v, g) y = Relu(n)',
    "SkipLayerNormalization": 'n, "", "", s = com.microsoft.SkipLayerNormalization(v, v, g, b) y = Add(n, s)',
    "SkipLayerNormalization with a skip for all":
        'n, "", "", s = com.microsoft.SkipLayerNormalization(v, k, g, b) y = Add(n, s)',
    "SkipSimplifiedLayerNormalization":
        'n, "", "", s = com.microsoft.SkipSimplifiedLayerNormalization(v, v, g) y = Add(n, s)',
    "LSTM": 't = Transpose <perm = [1, 0, 2]> (v) "", "", c = LSTM <hidden_size = 4> (t, w, w) '
            "y = Transpose <perm = [1, 0, 2]> (c)",
    "LSTM with its first state": 't = Transpose <perm = [1, 0, 2]> (v) "", h = LSTM <hidden_size = 4> (t, w, w) '
                                 "y = Transpose <perm = [1, 0, 2]> (h)",
    "GRU": 't = Transpose <perm = [1, 0, 2]> (v) "", h = GRU <hidden_size = 4> (t, r, r) '
           "y = Transpose <perm = [1, 0, 2]> (h)",
    "RNN": 't = Transpose <perm = [1, 0, 2]> (v) "", h = RNN <hidden_size = 4> (t, q, q) '
           "y = Transpose <perm = [1, 0, 2]> (h)",
    "MaxPool": 'p, "" = MaxPool <kernel_shape = [2]> (v) y = Relu(p)',
    "Dropout": 'd, "" = Dropout(v) y = Relu(d)',
}  # fmt: skip
WEIGHTS = (
    "float[4] g; float[4] b; float[3, 4] k; float[1, 16, 4] w; float[1, 12, 4] r; float[1, 4, 4] q; int64[1] a = {0}"
)
INPUT = "float[B, 3, 4] x"

CASES = [
    *(Case(name, INPUT, f"v = Identity(x) {body}", WEIGHTS, rtol=1e-4) for name, body in BODIES.items()),
    *(
        Case(f"{name}, of samples without an axis", INPUT,
             f"z = Squeeze(x, a) u = Relu(z) v = Unsqueeze(u, a) {body}", WEIGHTS, batches=[1], rtol=1e-4)
        for name, body in BODIES.items()
    ),
    Case("Split into parts of which one is not read", INPUT,
         "f = Reshape(x, s) p, q, r = Split <axis = 0> (f, z) y = Concat <axis = 0> (p, r)",
         "int64[2] s = {3B, 4}; int64[3] z = {B, B, B}", batches=[1]),
    Case("Split into samples of which one is not read", INPUT, "p, q, r = Split <axis = 0> (x, z) y = Add(p, r)",
         "int64[3] z = {1, 1, 1}", batches=[3], refused={3: "combines single samples of the batch with others"}),
    *(
        Case(f"{name}, of samples behind another axis", "float[3, B, 4] x",
             f"v = Transpose <perm = [1, 0, 2]> (x) {body}", WEIGHTS, axes={"x": 1}, rtol=1e-4)
        for name, body in BODIES.items()
    ),
]  # fmt: skip
