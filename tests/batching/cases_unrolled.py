"""Loops over the samples of a static batch that an exporter wrote out, and parts of them."""

from support.batched import Case

PARTS = {
    "Gather": ("a = Gather(x, zero) b = Gather(x, one)", "p = Unsqueeze(u, first) q = Unsqueeze(v, first)"),
    "Slice": ("a = Slice(x, first, second) b = Slice(x, second, third)", "p = Identity(u) q = Identity(v)"),
    "Split": ("a, b = Split <axis = 0> (x, halves)", "p = Identity(u) q = Identity(v)"),
    "SplitToSequence": (
        "t = SplitToSequence <axis = 0, keepdims = 0> (x) a = SequenceAt(t, zero) b = SequenceAt(t, one)",
        "p = Unsqueeze(u, first) q = Unsqueeze(v, first)",
    ),
}
"""How to take both samples out of x, and how to give them back an axis each."""

CONSTANTS = (
    "int64 zero = {0}; int64 one = {1}; int64[1] first = {0}; int64[1] second = {1}; int64[1] third = {2}; "
    "int64[2] halves = {1, 1}; float[4, 5] w"
)
MEETING = "y = Concat <axis = 0> (p, q)"
INPUT = "float[B, 3, 4] x"
ORDER = "takes only some of the samples of the batch, or joins them in another order"
DIFFERENT = "joins samples of the batch that were not all computed in the same way"


def both(body: str) -> str:
    """Apply a body to both samples: `{x}` is what it reads, `{y}` what it makes, and `{n}` numbers other values."""
    return " ".join(body.format(x=x, y=y, n=n) for x, y, n in (("a", "u", 0), ("b", "v", 1)))


CASES = [
    *(
        Case(f"samples taken by {name}", INPUT,
             f"{taken} {both('m{n} = MatMul({x}, w) {y} = Relu(m{n})')} {put} {MEETING}", CONSTANTS,
             batches=[2], rtol=1e-4)
        for name, (taken, put) in PARTS.items()
    ),
    Case("Slice of opset 9", INPUT,
         "a = Slice <axes = [0, 1], starts = [0, 1], ends = [1, 3]> (x) "
         "b = Slice <axes = [0, 1], starts = [1, 1], ends = [2, 3]> (x) y = Concat <axis = 0> (a, b)", batches=[2],
         opset=9),
    Case("Slice of a part of each sample", INPUT,
         "a = Slice(x, s, t, d, e) b = Slice(x, u, v, d, e) y = Concat <axis = 0> (b, a)",
         "int64[2] s = {-1, 2}; int64[2] t = {2, -9}; int64[2] d = {0, 1}; int64[2] e = {1, -1}; "
         "int64[2] u = {0, 2}; int64[2] v = {1, -9}", batches=[2]),
    Case("each sample by itself, over its first axis", INPUT,
         f"{PARTS['Gather'][0]} {both('{y} = Softmax <axis = 0> ({x})')} {PARTS['Gather'][1]} {MEETING}", CONSTANTS,
         batches=[2], rtol=1e-4),
    Case("each sample by itself, over the axis that held the batch", INPUT,
         f"{PARTS['Slice'][0]} {both('r{n} = ReduceMax <axes = [0]> ({x}) {y} = Identity(r{n})')} "
         f"{PARTS['Slice'][1]} {MEETING}", CONSTANTS, batches=[2], rtol=1e-4),
    Case("samples joined behind another axis", "float[B, 3] x",
         f"{PARTS['Slice'][0]} u = Transpose(a) v = Transpose(b) c = Concat <axis = 1> (u, v) y = Transpose(c)",
         CONSTANTS, batches=[2]),
    Case("rows of samples in one axis", INPUT,
         "f = Reshape(x, s) a = Slice(f, zero, three) b = Slice(f, three, six) i = Relu(a) j = Relu(b) "
         "m = ReduceMean <axes = [0]> (i) n = ReduceMean <axes = [0]> (j) y = Concat <axis = 0> (m, n)",
         "int64[2] s = {6, 4}; int64[1] zero = {0}; int64[1] three = {3}; int64[1] six = {6}", batches=[2]),
    Case("several values of each sample", INPUT,
         f"{PARTS['Slice'][0]} i = Relu(a) j = Neg(a) k = Relu(b) l = Neg(b) c = Concat <axis = 0> (i, j, k, l) "
         "y = Reshape(c, s)", f"{CONSTANTS}; int64[3] s = {{2, 6, 4}}", batches=[2]),
    Case("a class token for each sample", INPUT,
         f"{PARTS['Slice'][0]} {both('{y} = Concat <axis = 1> (c, {x})')} {PARTS['Slice'][1]} {MEETING}",
         f"{CONSTANTS}; float[1, 1, 4] c", batches=[2]),
    Case("samples beside constants with equal values", INPUT,
         f"{PARTS['Slice'][0]} u = Add(a, c) v = Add(b, d) {PARTS['Slice'][1]} {MEETING}",
         f"{CONSTANTS}; float[4] c = {{1, 2, 3, 4}}; float[4] d = {{1, 2, 3, 4}}", batches=[2]),
    Case("bags of embeddings, in a loop", "int64[B, 3] i",
         "f = Reshape(i, flat) r = Loop (n, go) <body = g (int64 k, bool c) => (bool c2, float[4] e) { "
         "c2 = Identity(c) s = Gather(starts, k) z = Unsqueeze(s, zero) t = Add(z, three) p = Slice(f, z, t) "
         "q = Gather(w, p) e = ReduceMean <axes = [0], keepdims = 0> (q) }> y = Relu(r)",
         "int64[1] flat = {-1}; int64 n = {B}; bool go = {1}; int64[4] starts = {0, 3, 6, 9}; int64[1] zero = {0}; "
         "int64[1] three = {3}; float[7, 4] w", below={"i": 7}, rtol=1e-4),
    Case("a Scan whose steps are the samples", INPUT,
         "y = Scan <num_scan_inputs = 1, "
         "body = g (float[3, 4] a) => (float[3, 4] b) { b = Softmax <axis = 0> (a) }> (x)", rtol=1e-4),
    Case("a Scan that adds up the samples", "float[B, 4] x",
         "z = Identity(none) t, y = Scan <num_scan_inputs = 1, "
         "body = g (float[4] c, float[4] a) => (float[4] d, float[4] e) { d = Add(c, a) e = Identity(d) }> (z, x)",
         "float[4] none = {0, 0, 0, 0}", batches=[3],
         refused={3: "combines single samples of the batch with others"}),
    Case("a function of every sample in a sequence", INPUT,
         "q = SplitToSequence <axis = 0> (x) r = SequenceMap <body = g (float[1, 3, 4] a) => (float[1, 3, 1] b) { "
         "b = ReduceMax <axes = [2]> (a) }> (q) y = ConcatFromSequence <axis = 0> (r)"),
    Case("samples in another order", INPUT,
         f"{PARTS['Slice'][0]} u = Relu(b) v = Relu(a) {PARTS['Slice'][1]} {MEETING}", CONSTANTS, batches=[2],
         refused={2: ORDER}),
    Case("one sample of three left out", INPUT, f"{PARTS['Slice'][0]} y = Concat <axis = 0> (a, b)", CONSTANTS,
         batches=[3], refused={3: ORDER}),
    Case("samples computed by other operators", INPUT,
         f"{PARTS['Slice'][0]} u = Relu(a) v = Neg(b) {PARTS['Slice'][1]} {MEETING}", CONSTANTS, batches=[2],
         refused={2: DIFFERENT}),
    Case("samples computed with other attributes", INPUT,
         f"{PARTS['Slice'][0]} u = LeakyRelu <alpha = 0.5> (a) v = LeakyRelu <alpha = 0.25> (b) {PARTS['Slice'][1]} "
         f"{MEETING}", CONSTANTS, batches=[2], refused={2: DIFFERENT}),
    Case("samples computed with other constants", INPUT,
         f"{PARTS['Slice'][0]} u = Add(a, c) v = Add(b, d) {PARTS['Slice'][1]} {MEETING}",
         f"{CONSTANTS}; float[4] c = {{1, 2, 3, 4}}; float[4] d = {{1, 2, 3, 5}}", batches=[2],
         refused={2: DIFFERENT}),
    Case("samples computed from other inputs", f"{INPUT}; float[B, 3, 4] z",
         f"{PARTS['Slice'][0]} u = Relu(a) c = Slice(z, second, third) v = Relu(c) {PARTS['Slice'][1]} {MEETING}",
         CONSTANTS, batches=[2], refused={2: DIFFERENT}),
    Case("samples computed from other rows", INPUT,
         "f = Reshape(x, s) a = Slice(f, zero, one) b = Slice(f, five, six) y = Concat <axis = 0> (a, b)",
         "int64[2] s = {6, 4}; int64[1] zero = {0}; int64[1] one = {1}; int64[1] five = {5}; int64[1] six = {6}",
         batches=[2], refused={2: DIFFERENT}),
    Case("samples computed from each other's outputs", INPUT,
         f"{PARTS['Slice'][0]} k, l = TopK <axis = 2> (a, one1) m, n = TopK <axis = 2> (b, one1) c = Cast <to = 1> (n) "
         "y = Concat <axis = 0> (k, c)", f"{CONSTANTS}; int64[1] one1 = {{1}}", batches=[2], refused={2: DIFFERENT}),
    Case("one sample less another", INPUT, f"{PARTS['Slice'][0]} y = Sub(a, b)", CONSTANTS, batches=[2],
         refused={2: "combines single samples of the batch with others"}),
    Case("all samples less one", INPUT, f"{PARTS['Slice'][0]} y = Sub(x, a)", CONSTANTS, batches=[2],
         refused={2: "combines single samples of the batch with others"}),
    Case("one sample as an answer", INPUT, f"{PARTS['Slice'][0]} y = Relu(b)", CONSTANTS, batches=[2],
         refused={2: "output 'y' takes only some of the samples of the batch"}),
    Case("a sample of positions", "int64[B] i", "j = Add(i, n) y = Gather(j, one)",
         "int64[B] n = {0, 4}; int64[1] one = {1}", batches=[2],
         refused={2: "takes a sample out of positions of the samples"}),
]  # fmt: skip
