"""Operators of ai.onnx.ml."""

from support.batched import Case

TREE = """nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [1, 0, 0],
    nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.1, 0.0, 0.0], nodes_truenodeids = [1, 0, 0],
    nodes_falsenodeids = [2, 0, 0], nodes_missing_value_tracks_true = [0, 0, 0]"""
CLASSES = """classlabels_int64s = [5, 7], class_ids = [0, 1, 0, 1], class_treeids = [0, 0, 0, 0],
    class_nodeids = [1, 1, 2, 2], class_weights = [0.2, 0.8, 0.6, 0.4]"""
TARGETS = "target_ids = [0, 0], target_treeids = [0, 0], target_nodeids = [1, 2], target_weights = [0.2, 0.7]"
SVM = 'kernel_type = "LINEAR", kernel_params = [0.5, 0.0, 3.0]'

MODELS = {
    "LinearClassifier": "y, p = ai.onnx.ml.LinearClassifier <coefficients = [0.1, 0.2, -0.3, 0.3, 0.1, 0.2], "
    'intercepts = [0.1, 0.2], classlabels_ints = [3, 9], post_transform = "SOFTMAX"> (x)',
    "LinearClassifier of names": "y, p = ai.onnx.ml.LinearClassifier <coefficients = [0.1, 0.2, -0.3, 0.3, 0.1, 0.2], "
    'intercepts = [0.1, 0.2], classlabels_strings = ["cat", "dog"]> (x)',
    "SVMClassifier of four classes": f"y, p = ai.onnx.ml.SVMClassifier <classlabels_ints = [0, 1, 2, 3], {SVM}, "
    "vectors_per_class = [1, 1, 1, 1], support_vectors = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0], "
    "coefficients = [0.1, 0.2, -0.3, 0.3, 0.1, 0.2, 0.5, 0.6, -0.7, 0.1, 0.1, 0.2], "
    "rho = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]> (x)",
    "SVMClassifier of two classes": f"y, p = ai.onnx.ml.SVMClassifier <classlabels_ints = [0, 1], {SVM}, "
    "vectors_per_class = [1, 1], support_vectors = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], coefficients = [0.5, -0.5], "
    "rho = [0.1]> (x)",
    "TreeEnsembleClassifier": f"y, p = ai.onnx.ml.TreeEnsembleClassifier <{TREE}, {CLASSES}> (x)",
}
REGRESSORS = {
    "LinearRegressor": "y = ai.onnx.ml.LinearRegressor <coefficients = [0.1, 0.2, -0.3, 0.3, 0.1, 0.2], targets = "
    "2> (x)",
    "SVMRegressor": f"y = ai.onnx.ml.SVMRegressor <{SVM}, support_vectors = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "
    "n_supports = 2, coefficients = [0.5, -0.5], rho = [0.1]> (x)",
    "TreeEnsembleRegressor": f"y = ai.onnx.ml.TreeEnsembleRegressor <n_targets = 1, {TREE}, {TARGETS}> (x)",
    "Normalizer": 'y = ai.onnx.ml.Normalizer <norm = "L2"> (x)',
    "Scaler": "y = ai.onnx.ml.Scaler <offset = [0.1, 0.2, 0.3], scale = [1.0, 2.0, 3.0]> (x)",
    "Imputer": "y = ai.onnx.ml.Imputer <imputed_value_floats = [1.0, 2.0, 3.0], replaced_value_float = 0.0> (x)",
    "Binarizer": "y = ai.onnx.ml.Binarizer <threshold = 0.1> (x)",
}
ROW = "float[B, 3] x"
OPSET = {"ai.onnx.ml": 3}
NEWEST = {"ai.onnx.ml": 5}

CASES = [
    *(Case(name, ROW, body, outputs=["y", "p"], domains=OPSET, rtol=1e-4) for name, body in MODELS.items()),
    *(Case(name, ROW, body, domains=OPSET, rtol=1e-4) for name, body in REGRESSORS.items()),
    *(
        Case(f"{name} of a vector without an axis for the batch", ROW,
             "v = Squeeze(x) " + body.replace("(x)", "(v)").replace("y = ", "r = ") + " y = Reshape(r, s)",
             "int64[2] s = {1, -1}", domains=OPSET, batches=[1], rtol=1e-4)
        for name, body in REGRESSORS.items() if name not in ("LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor")
    ),
    Case("TreeEnsemble", ROW, "y = ai.onnx.ml.TreeEnsemble <n_targets = 1, aggregate_function = 1, "
         "tree_roots = [0], nodes_featureids = [1], nodes_modes = uint8[1] {0}, nodes_splits = float[1] {0.1}, "
         "nodes_truenodeids = [0], nodes_trueleafs = [1], nodes_falsenodeids = [1], nodes_falseleafs = [1], "
         "leaf_targetids = [0, 0], leaf_weights = float[2] {0.5, 0.7}> (x)", domains=NEWEST),
    Case("LabelEncoder", "int64[B, 3] x",
         "y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_floats = [0.5, 1.5], default_float = 9.0> (x)",
         domains=OPSET),
    Case("LabelEncoder of words", "string[B, 3] x",
         'y = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "x1"], values_int64s = [4, 5], default_int64 = 9> (x)',
         domains=OPSET),
    Case("CategoryMapper", "string[B, 3] x",
         'y = ai.onnx.ml.CategoryMapper <cats_strings = ["a", "x1"], cats_int64s = [4, 5], default_int64 = 9> (x)',
         domains=OPSET),
    Case("OneHotEncoder", "int64[B, 3] x", "y = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1, 2, 4], zeros = 1> (x)",
         domains=OPSET),
    Case("FeatureVectorizer", "float[B, 3] a; float[B, 2] b",
         "y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [3, 2]> (a, b)", domains=OPSET),
    Case("ArrayFeatureExtractor of columns", ROW, "y = ai.onnx.ml.ArrayFeatureExtractor(x, i)", "int64[2] i = {2, 0}",
         domains=OPSET),
    Case("ArrayFeatureExtractor of the targets of the nearest", "float[B, 5] x",
         "v, i = TopK <axis = 1> (x, k) e = ai.onnx.ml.ArrayFeatureExtractor(t, i) y = Reshape(e, s)",
         "int64[1] k = {2}; float[5] t; int64[2] s = {-1, 2}", domains=OPSET),
    Case("ArrayFeatureExtractor of the targets of the nearest, by columns", "float[5, B] x",
         "u = Transpose(x) v, i = TopK <axis = 1> (u, k) e = ai.onnx.ml.ArrayFeatureExtractor(t, i) y = Reshape(e, s)",
         "int64[1] k = {2}; int64[1, 5] t; int64[2] s = {-1, 2}", axes={"x": 1}, domains=OPSET),
    Case("ArrayFeatureExtractor of the classes of all samples", "int64[B, 1] i",
         "e = ai.onnx.ml.ArrayFeatureExtractor(t, i) y = Transpose(e)", "float[4] t", below={"i": 4}, domains=OPSET),
    Case("a regressor over the batch", "float[B, 3] x",
         "t = Transpose(x) y = ai.onnx.ml.Scaler <scale = [2.0], offset = [0.0]> (t)",
         domains=OPSET, refused={1: "has its features along axis 1", 3: "has its features along axis 1"}),
    Case("a classifier over the batch", "float[3, B] x",
         "y, p = ai.onnx.ml.LinearClassifier <coefficients = [0.1, 0.2], intercepts = [0.1, 0.2], classlabels_ints "
         "= [3, 9]> (x)", domains=OPSET,
         axes={"x": 1}, batches=[1], refused={1: "has its features along axis 1"}),
    Case("TfIdfVectorizer", "int64[B, 6] x",
         'y = TfIdfVectorizer <mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, '
         "ngram_counts = [0], ngram_indexes = [0, 1, 2], pool_int64s = [0, 1, 2]> (x)", below={"x": 4}),
    Case("TfIdfVectorizer of a vector", "int64[B, 6] x",
         's = Squeeze(x) t = TfIdfVectorizer <mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count '
         '= 0, '
         "ngram_counts = [0], ngram_indexes = [0, 1, 2], pool_int64s = [0, 1, 2]> (s) y = Unsqueeze(t, a)",
         "int64[1] a = {0}", below={"x": 4}, batches=[1]),
]  # fmt: skip
