"""lsc-graph: will the gradients of this ONNX model survive depth and time?"""
