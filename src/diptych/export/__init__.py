"""Export to ONNX and OpenVINO graphs, to Inference Endpoints, and to the Hugging Face hub."""
