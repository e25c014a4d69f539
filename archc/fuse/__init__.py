"""From the graph to the equations of a fused kernel: element-wise regions as expressions, and their derivatives."""
