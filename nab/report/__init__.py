"""Tables, figures and the book, from stored results. Knows nothing of training."""
