"""Branches, loops, sequences, optionals and functions."""

from support.batched import Case

SCAN = (
    "Scan <num_scan_inputs = 1, body = step (float[B, 3] h, float[B, 3] e) => (float[B, 3] n, float[B, 3] o) "
    "{ s = Add(h, e) n = Tanh(s) o = Mul(n, w) }>"
)

CASES = [
    Case("a constant branch", "float[B, 3] x",
         "c = Constant <value = bool {1}> () "
         "y = If (c) <then_branch = t () => (float[B, 3] p) { p = Mul(x, w) }, "
         "else_branch = e () => (float[B, 3] q) { q = Neg(x) }>", "float[3] w"),
    Case("a branch on the width", "float[B, 3] x",
         "s = Shape(x) n = Gather(s, one) c = Equal(n, four) "
         "y = If (c) <then_branch = t () => (float[B, 3] p) { p = Identity(x) }, "
         "else_branch = e () => (float[B, 3] q) { r = Reshape(x, whole) q = Reshape(r, back) }>",
         "int64 one = {1}; int64 four = {4}; int64[1] whole = {3B}; int64[2] back = {B, 3}"),
    Case("a branch in a branch", "float[B, 3] x",
         "c = Constant <value = bool {1}> () d = Constant <value = bool {0}> () "
         "y = If (c) <then_branch = t () => (float[B, 3] p) { h = Relu(x) "
         "p = If (d) <then_branch = tt () => (float[B, 3] a) { a = Exp(h) }, "
         "else_branch = te () => (float[B, 3] b) { b = Add(h, x) }> }, "
         "else_branch = e () => (float[B, 3] q) { q = Neg(x) }>"),
    Case("a branch that returns what it captured", "float[B, 3] x",
         "c = Constant <value = bool {1}> () h = Relu(x) "
         "y = If (c) <then_branch = t () => (float[B, 3] h) { }, else_branch = e () => (float[B, 3] q) { q = Neg(x) }>",
         batches=[]),
    Case("a branch that each sample takes for itself", "float[B, 3] x; bool[B] c",
         "y = If (c) <then_branch = t () => (float[B, 3] p) { p = Relu(x) }, "
         "else_branch = e () => (float[B, 3] q) { q = Neg(x) }>", batches=[1]),
    Case("a branch that each sample takes, of different shapes", "float[B, 3] x; bool[B] c",
         "y = If (c) <then_branch = t () => (float[?] p) { p = Reshape(x, whole) }, "
         "else_branch = e () => (float[?, 3] q) { q = Neg(x) }>", "int64[1] whole = {-1}", batches=[1],
         below={"c": 1}, refused={1: "the branches give different shapes"}),
    Case("a branch on the sum over the batch", "float[B, 3] x",
         "s = ReduceSum <keepdims = 0> (x) c = Greater(s, zero) "
         "y = If (c) <then_branch = t () => (float[B, 3] p) { p = Relu(x) }, "
         "else_branch = e () => (float[B, 3] q) { q = Neg(x) }>", "float zero = {0}",
         refused={1: "reduces over axis 0", 3: "reduces over axis 0"}),
    Case("a loop with carried samples", "float[B, 3] x",
         "n = Constant <value = int64 {4}> () c = Constant <value = bool {1}> () "
         "z = Mul(x, w) y, s = Loop (n, c, z) <body = step (int64 i, bool k, float[B, 3] h) => "
         "(bool g, float[B, 3] o, float[B, 3] t) { g = Identity(k) a = Add(h, x) o = Tanh(a) "
         "f = Cast <to = 1> (i) t = Mul(o, f) }> u = Transpose <perm = [1, 0, 2]> (s)", "float[3] w",
         outputs=["y", "u"]),
    Case("a loop that stops early", "float[B, 3] x",
         'c = Constant <value = bool {1}> () y = Loop ("", c, x) <body = step (int64 i, bool k, float[B, 3] h) => '
         "(bool g, float[B, 3] o) { m = Constant <value = int64 {2}> () g = Less(i, m) o = Add(h, w) }>",
         "float[3] w"),
    Case("a loop that stops when the samples say so", "float[B, 3] x",
         'c = Constant <value = bool {1}> () y = Loop ("", c, x) <body = step (int64 i, bool k, float[B, 3] h) => '
         "(bool g, float[B, 3] o) { o = Sub(h, one) q = Slice(o, lo, hi, ax) p = Squeeze(q) g = Greater(p, zero) }>",
         "float one = {1}; float zero = {0}; int64[1] lo = {0}; int64[1] hi = {1}; int64[1] ax = {1}", batches=[1],
         refused={1: "whether it goes on depends on the samples"}),
    Case("a loop with samples that mix in its body", "float[B, 3] x",
         "n = Constant <value = int64 {2}> () c = Constant <value = bool {1}> () "
         "y = Loop (n, c, x) <body = step (int64 i, bool k, float[B, 3] h) => (bool g, float[B, 3] o) "
         "{ g = Identity(k) m = ReduceMean <axes = [0]> (h) o = Sub(h, m) }>",
         refused={1: "reduces over axis 0", 3: "reduces over axis 0"}),
    Case("a scan over time", "float[4, B, 3] x", "y, o = " + SCAN.replace("<num", "(z, x) <num"),
         "float[3] w; float[B, 3] z", axes={"x": 1}, equal={"z": 0}, outputs=["y", "o"]),
    Case("a scan over time behind the batch, backwards", "float[B, 4, 3] x",
         "y, o = " + SCAN.replace("<num", "(z, x) <scan_input_axes = [1], scan_input_directions = [1], "
                                  "scan_output_axes = [1], scan_output_directions = [1], num"),
         "float[3] w; float[B, 3] z", equal={"z": 0}, outputs=["y", "o"]),
    Case("a sequence of parts", "float[B, 6] x",
         "s = SplitToSequence <axis = 1> (x, two) n = SequenceLength(s) a = SequenceAt(s, zero) b = SequenceAt(s, "
         "last) "
         "m = Mul(a, b) f = Cast <to = 1> (n) y = Mul(m, f)", "int64 two = {2}; int64 zero = {0}; int64 last = {-1}"),
    Case("a sequence that is built and joined", "float[B, 3] a; float[B, 3] b",
         "e = SequenceEmpty() c = SequenceInsert(e, a) d = SequenceInsert(c, b, zero) f = SequenceErase(d, zero) "
         "g = SequenceInsert(f, b) y = ConcatFromSequence <axis = 1, new_axis = 1> (g)", "int64 zero = {0}"),
    Case("a sequence that is made at once", "float[B, 3] a; float[B, 2] b",
         "s = SequenceConstruct(a, b) y = ConcatFromSequence <axis = -1> (s)"),
    Case("a sequence that is mapped", "float[B, 3] a; float[B, 3] b",
         "s = SequenceConstruct(a, b) m = SequenceMap (s, w) <body = f (float[B, 3] p, float[3] q) => (float[B, 3] r) "
         "{ r = Mul(p, q) }> y = ConcatFromSequence <axis = 1> (m)", "float[3] w"),
    Case("a sequence that a loop fills", "float[B, 3] x",
         "n = Constant <value = int64 {3}> () c = Constant <value = bool {1}> () e = SequenceEmpty() "
         "s = Loop (n, c, e) <body = step (int64 i, bool k, seq(float[B, 3]) h) => (bool g, seq(float[B, 3]) o) "
         "{ g = Identity(k) f = Cast <to = 1> (i) t = Mul(x, f) o = SequenceInsert(h, t) }> "
         "y = ConcatFromSequence <axis = 1> (s)"),
    Case("an optional", "float[B, 3] x",
         "o = Optional(x) h = OptionalHasElement(o) g = OptionalGetElement(o) f = Cast <to = 1> (h) y = Mul(g, f)"),
    Case("a constant in every form", "float[B, 2] x",
         "a = Constant <value_float = 2.0> () b = Constant <value_floats = [1.0, 2.0]> () c = Constant <value_int = "
         "3> () "
         "d = Constant <value_ints = [1, 2]> () e = Cast <to = 1> (c) f = Cast <to = 1> (d) y = Sum(x, a, b, e, f)"),
]  # fmt: skip
