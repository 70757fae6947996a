/** Classical machine learning (ai.onnx.ml). */
export {};
