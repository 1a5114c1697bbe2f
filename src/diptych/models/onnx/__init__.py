"""Running exported graphs with ONNX Runtime and OpenVINO."""
