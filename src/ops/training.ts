/** Training operators (ai.onnx.preview.training). */
export {};
