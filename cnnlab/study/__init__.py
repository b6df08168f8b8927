"""Find a learning rate, search for hyperparameters, and compare variants over several seeds."""
