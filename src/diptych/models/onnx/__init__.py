"""ONNX and OpenVINO graphs: running exported towers, and tracing networks."""
