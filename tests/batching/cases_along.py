"""Operators along some axes."""

from support.batched import Case

PLACES = {
    "in place": ("float[B, 4, 6] x", "v = Identity(x)", (1, 3)),
    "on axis 1": ("float[B, 4, 6] x", "v = Transpose <perm = [1, 0, 2]> (x)", (1, 3)),
    "before other rows": ("float[B, 4, 6] x", "v = Reshape(x, f)", (1, 3)),
    "behind other rows": ("float[B, 4, 6] x", "t = Transpose <perm = [1, 0, 2]> (x) v = Reshape(t, f)", (1, 3)),
    "dropped": ("float[B, 4, 6] x", "s = Squeeze(x) v = Unsqueeze(s, one)", (1,)),
}
"""Where the samples are, and the node that puts them there; the last axis is theirs alone, for an operator to use."""

CONSTANTS = "int64[2] f = {4B, 6}; int64[1] one = {1}; int64[1] last = {-1}; int64 minus = {-1}; int64[1] k = {2}"

ALONG_LAST = {
    **{n: f"y = {n} <axes = [-1]> (v)" for n in (
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSumSquare",
    )},
    "ReduceSum": "y = ReduceSum <keepdims = 0> (v, last)",
    "ArgMax": "y = ArgMax <axis = -1, keepdims = 0> (v)",
    "ArgMin": "y = ArgMin <axis = -1> (v)",
    "Softmax": "y = Softmax(v)",
    "LogSoftmax": "y = LogSoftmax <axis = -1> (v)",
    "Hardmax": "y = Hardmax <axis = -1> (v)",
    "TopK": "w, y = TopK(v, k)",
    "CumSum": "y = CumSum <reverse = 1> (v, minus)",
    "LayerNormalization": "y = LayerNormalization(v, scale)",
    "LpNormalization": "y = LpNormalization(v)",
    "OneHot of the places of maxima": "a = ArgMax <axis = -1, keepdims = 0> (v) y = OneHot <axis = -1> (a, depth, "
                                      "values)",
    "OneHot put in front": "a = ArgMax <axis = -1> (v) y = OneHot <axis = 0> (a, depth, values)",
    "SimplifiedLayerNormalization": "y = SimplifiedLayerNormalization(v, scale)",
    "UnfoldTensor": "y = com.microsoft.UnfoldTensor <dim = -1, size = 2, step = 2> (v)",
}  # fmt: skip

MATRICES = {
    "Trilu": "y = Trilu(v)",
    "Trilu with a diagonal": "y = Trilu <upper = 0> (v, minus)",
    "com.microsoft Trilu": "y = com.microsoft.Trilu(v)",
}

MIXED = {1: "holds the batch", 3: "holds the batch"}

CASES = [
    *(
        Case(f"{what}, batch {where}", inputs, f"{place} {body} {'o = Unsqueeze(y, first)' * (where == 'dropped')}",
             f"{CONSTANTS}; float[6] scale; int64[1] depth = {{6}}; float[2] values; int64[1] first = {{0}}",
             outputs=["o" if where == "dropped" else "y"], batches=batches)
        for where, (inputs, place, batches) in PLACES.items()
        for what, body in ALONG_LAST.items()
    ),
    *(Case(what, "float[B, 4, 6] x", f"v = Identity(x) {body}", CONSTANTS) for what, body in MATRICES.items()),
    *(
        Case(f"{name} over the batch", "float[B, 4] x", f"y = {body}",
             "int64 zero = {0}; int64[1] k = {1}; float[B, 4] w",
             refused=MIXED)
        for name, body in {
            "ReduceMean": "ReduceMean <axes = [0]> (x)",
            "ReduceMax over everything": "ReduceMax(x)",
            "ArgMax": "ArgMax <axis = 0> (x)",
            "Softmax": "Softmax <axis = 0> (x)",
            "CumSum": "CumSum(x, zero)",
            "LayerNormalization": "LayerNormalization <axis = 0> (x, w)",
            "LpNormalization": "LpNormalization <axis = 0> (x)",
            "Trilu": "Trilu(x)",
            "MeanVarianceNormalization": "MeanVarianceNormalization <axes = [0]> (x)",
        }.items()
    ),
    Case("TopK over the batch", "float[B, 4] x", "w, y = TopK <axis = 0> (x, k)", "int64[1] k = {2}", batches=[3],
         refused=MIXED),
    Case("the order of a batch of one", "float[B] x", "w, i = TopK <axis = 0> (x, k) y = Gather(x, i)",
         "int64[1] k = {1}", batches=[1]),
    Case("a mean over time after the batch was folded into it", "float[B, 4, 6] x",
         "f = Reshape(x, s) m = ReduceMean <axes = [0]> (f)", "int64[2] s = {4B, 6}", outputs=["m"], batches=[3],
         refused=MIXED),
    Case("ReduceMean of opset 18", "float[B, 4, 6] x", "y = ReduceMean <keepdims = 0> (x, a)", "int64[2] a = {1, -1}",
         opset=18),
    Case("ReduceMax of no axes with noop_with_empty_axes", "float[B, 4] x",
         "y = ReduceMax <noop_with_empty_axes = 1> (x)", opset=18, recent=True),
    Case("ReduceMax of an empty list of axes", "float[B, 4] x", "y = ReduceMax(x, a)", "int64[0] a = {}", opset=18,
         refused=MIXED),
    Case("ReduceSum of opset 11", "float[B, 4, 6] x", "y = ReduceSum <axes = [-1]> (x)", opset=11),
    Case("a reduction over every axis of a sample without a batch axis", "float[B, 4, 6] x",
         "s = Squeeze(x) m = ReduceMean <keepdims = 0> (s) y = Unsqueeze(m, a)", "int64[1] a = {0}", batches=[1]),
    Case("Softmax of opset 11 flattens", "float[B, 3, 4] x", "y = Softmax(x)", opset=11),
    Case("Softmax of opset 11 over the last axis", "float[B, 3, 4] x", "y = Softmax <axis = 2> (x)", opset=11),
    Case("Softmax of opset 11 over everything", "float[B, 3, 4] x", "y = Softmax <axis = 0> (x)", opset=11,
         refused=MIXED),
    Case("Hardmax of opset 12 flattens", "float[B, 3, 4] x", "y = Hardmax(x)", opset=12),
    Case("TopK of opset 9", "float[B, 4] x", "w, y = TopK <k = 2> (x)", opset=9),
    Case("TopK of opset 10", "float[B, 4] x", "w, y = TopK(x, k)", "int64[1] k = {2}", opset=10),
    Case("CumProd", "float[B, 4] x", "y = CumProd(x, a)", "int64 a = {1}", opset=26, by_reference=True),
    Case("LayerNormalization with its mean", "float[B, 4, 6] x", "y, m, d = LayerNormalization <axis = 1> (x, w)",
         "float[4, 6] w", outputs=["y", "m", "d"], opset=17),
    Case("LayerNormalization with a row constant", "float[B, 4, 6] x", "y = LayerNormalization(x, w)",
         "float[B, 1, 6] w",
         equal={"w": 0}, by_reference=True),
    Case("RMSNormalization", "float[B, 4, 6] x", "y = RMSNormalization(x, w)", "float[6] w", opset=23),
    Case("MeanVarianceNormalization", "float[B, 4, 6] x", "y = MeanVarianceNormalization <axes = [-1, 1]> (x)"),
    Case("MeanVarianceNormalization by default", "float[B, 4, 6, 2] x", "y = MeanVarianceNormalization(x)",
         refused=MIXED),
    Case("Det", "float[B, 2, 3, 3] x", "y = Det(x)"),
    Case("Det of one matrix", "float[B, 3, 3] x", "y = Det(x)"),
    Case("Inverse", "float[B, 3, 3] x", "y = com.microsoft.Inverse(x)", rtol=1e-3),
    Case("DFT", "float[B, 8, 1] x", "y = DFT <axis = 1> (x)", rtol=1e-4),
    Case("DFT of opset 20", "float[B, 8, 1] x", "y = DFT(x)", opset=20, rtol=1e-4),
    Case("DFT of opset 20 along another axis", "float[B, 8, 4, 1] x", 'y = DFT(x, "", a)', "int64 a = {-3}", opset=20,
         rtol=1e-4),
    Case("DFT over the batch", "float[B, 8, 1] x", "y = DFT <axis = 0> (x)", refused=MIXED),
    Case("ReverseSequence", "float[B, 4, 2] x; int64[B] n",
         "y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, n)",
         below={"n": (1, 5)}),
    Case("ReverseSequence with time first", "float[4, B, 2] x; int64[B] n", "y = ReverseSequence(x, n)",
         axes={"x": 1}, below={"n": (1, 5)}),
    Case("ReverseSequence of constant lengths", "float[B, 4] x",
         "y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, n)", "int64[B] n", below={"n": (2, 5)},
         equal={"n": 0}),
    Case("ReverseSequence of the batch", "float[B, 4] x; int64[4] n", "y = ReverseSequence(x, n)", below={"n": (1, 2)},
         axes={"n": 0}, batches=[4], refused={4: "holds the batch"}),
    *(
        Case(f"{name} over the tokens of the one sample", "float[B, 6, 4] x",
             f"t = Reshape(x, s) {body} y = Reshape(u, e)",
             "int64[2] s = {-1, 4}; int64[3] e = {B, 6, 4}; int64 a = {0}",
             refused={3: "axis 0, which holds the batch"}, rtol=1e-4)
        for name, body in [
            ("CumSum", "u = CumSum(t, a)"),
            ("Softmax", "u = Softmax <axis = 0> (t)"),
            ("ReduceMax", "m = ReduceMax <axes = [0]> (t) u = Sub(t, m)"),
        ]
    ),
    Case("the capacity of experts, over the tokens of the one sample", "float[B, 6, 4] x",
         "t = Reshape(x, s) k = ArgMax <axis = 1, keepdims = 0> (t) h = OneHot(k, four, hot) n = CumSum(h, a) "
         "p = Mul(n, h) c = LessOrEqual(p, two) f = Cast <to = 1> (c) g = Mul(f, h) r = MatMul(g, w) u = Mul(r, t) "
         "y = Reshape(u, e)",
         "int64[2] s = {-1, 4}; int64[3] e = {B, 6, 4}; int64 a = {0}; int64 four = {4}; float[2] hot = {0, 1}; "
         "float two = {2}; float[4, 4] w", refused={3: "accumulates along axis 0, which holds the batch"}, rtol=1e-4),
    Case("the capacity of experts, over the tokens of each sample", "float[B, 6, 4] x",
         "k = ArgMax <axis = 2, keepdims = 0> (x) h = OneHot(k, four, hot) n = CumSum(h, a) p = Mul(n, h) "
         "c = LessOrEqual(p, two) f = Cast <to = 1> (c) g = Mul(f, h) r = MatMul(g, w) y = Mul(r, x)",
         "int64 a = {1}; int64 four = {4}; float[2] hot = {0, 1}; float two = {2}; float[4, 4] w", rtol=1e-4),
]  # fmt: skip
