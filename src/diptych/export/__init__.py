"""Writing models as ONNX and OpenVINO graphs, and sharing them on the Hugging Face hub."""
