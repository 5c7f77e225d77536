"""Operators that work element by element, on numbers and on strings."""

from support.batched import Case

UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp",
    "Floor", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu",
    "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh",
    "ThresholdedRelu",
]  # fmt: skip
NUMBERS = ["Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum"]
COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
LOGIC = ["And", "Or", "Xor"]
BITS = ["BitwiseAnd", "BitwiseOr", "BitwiseXor"]

CASES = [
    *(Case(f"{name} of samples", "float[B, 3] x", f"y = {name}(x)") for name in UNARY),
    *(
        Case(f"{name} of samples without an axis", "float[B, 3] x", f"s = Squeeze(x) t = {name}(s) y = Unsqueeze(t, a)",
             "int64[1] a = {0}", batches=[1])
        for name in ("Sigmoid", "IsNaN")
    ),
    Case("Mish", "float[B, 3] x", "y = Mish(x)", opset=18),
    Case("Gelu", "float[B, 3] x", "y = Gelu(x)", opset=20),
    Case("Swish", "float[B, 3] x", "y = Swish(x)", opset=24, recent=True),
    Case("Not", "bool[B, 3] x", "y = Not(x)"),
    Case("Cast", "float[B, 3] x", "y = Cast <to = 7> (x)"),
    Case("BitCast", "float[B, 3] x", "y = BitCast <to = 6> (x)", opset=26, recent=True),
    Case("BitwiseNot", "int32[B, 3] x", "y = BitwiseNot(x)", opset=18),
    *(Case(f"{name} of two inputs", "float[B, 3] a; float[B, 3] b", f"y = {name}(a, b)") for name in NUMBERS),
    *(Case(f"{name} of two inputs", "float[B, 3] a; float[B, 3] b", f"y = {name}(a, b)") for name in COMPARISONS),
    *(
        Case(f"{name} at an opset whose inference gives it no shape", "float[B, 2, 3] x", f"y = {name}(x, w)",
             "float[3] w", opset=13)
        for name in ("GreaterOrEqual", "LessOrEqual")
    ),
    *(Case(f"{name} of two inputs", "bool[B, 3] a; bool[B, 3] b", f"y = {name}(a, b)") for name in LOGIC),
    *(Case(f"{name} of two inputs", "int64[B, 3] a; int64[B, 3] b", f"y = {name}(a, b)", opset=18) for name in BITS),
    Case("BitShift", "uint8[B, 3] a; uint8[B, 3] b", 'y = BitShift <direction = "LEFT"> (a, b)'),
    Case("Mod", "int64[B, 3] a; int64[B, 3] b", "y = Mod(a, b)", below={"b": (2, 5)}),
    Case("PRelu with a slope for each channel", "float[B, 3, 4, 4] x", "y = PRelu(x, w)", "float[3, 1, 1] w"),
    Case("PRelu whose batch is on axis 1", "float[3, B, 4] x", "y = PRelu(x, w)", "float[3, 1, 1] w", axes={"x": 1}),
    Case("Where by samples", "bool[B, 3] m; float[B, 3] a", "y = Where(m, a, w)", "float[1, 3] w"),
    Case("Where between constants", "bool[B, 1] m", "y = Where(m, a, b)", "float[3] a; float[1] b"),
    Case("SwiGLU", "float[B, 3] a; float[B, 3] b", "y = SwiGLU(a, b)", opset=28, by_reference=True),
    Case("a constant of the sample's shape", "float[B, 3, 4] x", "y = Add(x, w)", "float[3, 4] w"),
    Case("a constant of higher rank", "float[B, 3] x", "y = Add(x, w)", "float[2, 1, 3] w"),
    Case("a constant of higher rank and a sample that was squeezed", "float[B, 3] x",
         "s = Squeeze(x) t = Add(s, w) y = Unsqueeze(t, a)", "float[2, 4, 3] w; int64[1] a = {0}", batches=[1]),
    Case("a constant that spells out the batch", "float[B, 3] x", "y = Mul(x, w)", "float[B, 3] w", equal={"w": 0}),
    Case("a constant with a row of its own for every sample", "float[B, 3] x", "y = Mul(x, w)", "float[B, 3] w",
         batches=[3], refused={3: "holds different values for the 3 samples"}),
    Case("a constant that spells out a folded batch", "float[B, 2, 3] x", "f = Reshape(x, s) y = Mul(f, w)",
         "float[2B, 3] w; int64[2] s = {2B, 3}", equal={"w": 0}),
    Case("every sample with every other", "float[B, 3] x",
         "a = Unsqueeze(x, i) b = Unsqueeze(x, j) y = Sub(a, b)", "int64[1] i = {0}; int64[1] j = {1}",
         refused={1: "combines every sample", 3: "combines every sample"}),
    Case("two inputs with their batch on different axes", "float[B, 3] a; float[3, B] b",
         "t = Transpose <perm = [1, 0]> (b) y = Add(a, t)", axes={"b": 1}),
    Case("a sum whose operands lie in different forms", "float[B, 3] x",
         "s = ReduceMax <axes = [0]> (x) y = Add(x, s)", refused={1: "reduces over axis 0", 3: "reduces over axis 0"}),
    Case("a scalar of every sample", "float[B, 3] x; float[B] t", "u = Unsqueeze(t, a) y = Mul(x, u)",
         "int64[1] a = {1}"),
    Case("a scalar of every sample, without an axis", "float[B, 3] x; float[B] t", "u = Squeeze(t) y = Mul(x, u)",
         batches=[1]),
    Case("Clip to constants", "float[B, 3] x", "y = Clip(x, l, h)", "float l; float h"),
    Case("Clip without a lower bound", "float[B, 3] x", 'y = Clip(x, "", h)', "float h"),
    Case("Clip by attributes", "float[B, 3] x", "y = Clip <min = -0.5, max = 0.5> (x)", opset=10),
    Case("Clip to bounds of the sample's own", "float[B, 3] x; float[B] t",
         "l = Squeeze(t) y = Clip(x, l)", batches=[1]),
    Case("CastLike reads a type", "int64[B, 3] x; float[B] t", "y = CastLike(x, t)"),
    Case("Dropout at inference", "float[B, 3] x", "y, m = Dropout(x)", outputs=["y", "m"]),
    Case("Dropout that trains", "float[B, 3] x", "r = Constant <value_float = 0.5> () "
         "t = Constant <value = bool {1}> () y = Dropout(x, r, t)",
         refused={1: "drops values at random", 3: "drops values at random"}),
    Case("StringConcat", "string[B, 3] a; string[B, 3] b", "y = StringConcat(a, b)", opset=20),
    Case("RegexFullMatch", "string[B, 3] a", 'y = RegexFullMatch <pattern = "[a-z]+"> (a)', opset=20),
    Case("StringNormalizer word by word", "string[B, 3] a",
         'y = StringNormalizer <case_change_action = "UPPER", locale = "C"> (a)',
         batches=[1]),
    Case("StringNormalizer that drops words", "string[B, 4] a",
         'y = StringNormalizer <case_change_action = "UPPER", locale = "C", stopwords = ["x1"]> (a)', batches=[1],
         refused={1: "drops words"}),
    *(
        Case(f"com.microsoft {name}", "float[B, 2, 4] x", f"y = com.microsoft.{name}(x)")
        for name in ("Gelu", "QuickGelu", "FastGelu")
    ),
    Case("FastGelu with a bias", "float[B, 2, 4] x", "y = com.microsoft.FastGelu(x, b)", "float[4] b"),
    Case("BiasGelu", "float[B, 2, 4] x", "y = com.microsoft.BiasGelu(x, b)", "float[4] b"),
    Case("MurmurHash3 of numbers", "int64[B, 2, 4] x", "y = com.microsoft.MurmurHash3(x)"),
    Case("MurmurHash3 of words, signed", "string[B, 3] x", "y = com.microsoft.MurmurHash3 <positive = 0> (x)"),
    Case("a constant whose rows differ by rounding", "float[B, 3] x", "y = Mul(x, w)",
         "float[B, 1] w = {0.1, 0.10000001, 0.1}", batches=[3]),
    Case("a constant whose rows differ by more than rounding", "float[B, 3] x", "y = Mul(x, w)",
         "float[B, 1] w = {0.1, 0.1000001, 0.1}", batches=[3], refused={3: "holds different values for the 3 samples"}),
]  # fmt: skip
