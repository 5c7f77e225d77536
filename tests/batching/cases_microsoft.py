"""com.microsoft operators of ONNX Runtime's optimizer that have no family among the others."""

from support.batched import Case

NORMS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")

CASES = [
    *(
        Case(f"{name} of two inputs", "float[B, 4, 6] x; float[B, 4, 6] s", f"y = com.microsoft.{name}(x, s, g)",
             "float[6] g", rtol=1e-4)
        for name in NORMS
    ),
    *(
        Case(f"{name} with a skip for all", "float[B, 4, 6] x", f"y = com.microsoft.{name}(x, s, g)",
             "float[4, 6] s; float[6] g", rtol=1e-4)
        for name in NORMS
    ),
    Case("SkipLayerNormalization with a skip that spells out the batch", "float[B, 4, 6] x",
         "y = com.microsoft.SkipLayerNormalization(x, s, g)", "float[B, 4, 6] s; float[6] g", equal={"s": 0},
         rtol=1e-4),
    Case("SkipLayerNormalization with its sum", "float[B, 4, 6] x; float[B, 4, 6] s",
         'y, m, d, t = com.microsoft.SkipLayerNormalization(x, s, g, b, c)', "float[6] g; float[6] b; float[6] c",
         outputs=["y", "t"], rtol=1e-4, recent=True),
    Case("SkipLayerNormalization of samples without an axis", "float[B, 4, 6] x; float[B, 4, 6] s",
         "p = Squeeze(x) q = Squeeze(s) n = com.microsoft.SkipLayerNormalization(p, q, g) y = Unsqueeze(n, a)",
         "float[6] g; int64[1] a = {0}", batches=[1], rtol=1e-4),
    Case("SkipLayerNormalization with time first", "float[4, B, 6] x; float[4, B, 6] s",
         "y = com.microsoft.SkipLayerNormalization(x, s, g)", "float[6] g", axes={"x": 1, "s": 1}, batches=[1],
         rtol=1e-4),
    Case("ExpandDims", "float[B, 4] x", "y = com.microsoft.ExpandDims(x, a)", "int32 a = {-1}"),
    Case("CDist to constant rows", "float[B, 4] x", 'y = com.microsoft.CDist <metric = "euclidean"> (x, w)',
         "float[5, 4] w", rtol=1e-4),
    Case("CDist of a row without an axis", "float[B, 4] x",
         'q = Squeeze(x) u = Unsqueeze(q, a) y = com.microsoft.CDist <metric = "euclidean"> (u, w)',
         "float[5, 4] w; int64[1] a = {0}", batches=[1], rtol=1e-4),
    Case("CDist among the samples", "float[B, 4] x", 'y = com.microsoft.CDist <metric = "euclidean"> (x, x)',
         refused={1: "compares the samples of the batch with each other", 3: "compares the samples"}),
    Case("com.microsoft GatherND", "int64[B, 4, 2] i", "y = com.microsoft.GatherND(t, i)", "float[3, 3, 2] t",
         below={"i": 3}),
    Case("com.microsoft Pad", "float[B, 3, 4] x", "y = com.microsoft.Pad(x, p)", "int64[6] p = {0, 1, 0, 0, 0, 2}"),
    Case("NGramRepeatBlock", "int64[B, 6] i; float[B, 5] s",
         "y = com.microsoft.NGramRepeatBlock <ngram_size = 2> (i, s)",
         below={"i": 5}),
    Case("GatherBlockQuantized", "int32[B, 4] i",
         "y = com.microsoft.GatherBlockQuantized <block_size = 16, bits = 8> (t, i, s)",
         "uint8[5, 32] t; float[5, 2] s", below={"i": 5, "t": 256}, rtol=1e-4),
    Case("RotaryEmbedding at an offset without an axis", "float[B, 4, 12] x",
         "y = com.microsoft.RotaryEmbedding(x, p, c, d)",
         "int64 p = {0}; float[9, 3] c; float[9, 3] d", refused={1: "has no axis 0", 3: "has no axis 0"}),
]  # fmt: skip
