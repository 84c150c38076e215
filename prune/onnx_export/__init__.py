"""The decoder as ONNX graphs: written (`bundle`), and proved by decoding (`bit_parity`)."""
