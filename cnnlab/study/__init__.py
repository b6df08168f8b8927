"""Studies: find a learning rate, search for hyperparameters, compare variants over seeds."""
