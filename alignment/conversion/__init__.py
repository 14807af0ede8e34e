"""Published weights of judges, converted once to the folders that their scorers load."""
