"""How the demo checkpoint was made: data, training, export, evaluation. See README.md."""
