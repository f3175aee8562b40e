"""What is wrong with a model, its data, or how the two meet: `topoface doctor`."""
