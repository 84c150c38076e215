"""Costs: MACs of torch modules and of ONNX graphs, milliseconds as paired ratios."""
