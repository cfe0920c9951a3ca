"""What is made of a slide that a trained method has predicted: polygons, a label pyramid, areas."""
