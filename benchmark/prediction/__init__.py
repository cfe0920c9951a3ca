"""Prediction of a slide with a trained method, and its outputs: polygons, a label pyramid, areas."""
