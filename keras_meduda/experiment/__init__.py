"""An experiment is an object: a recipe, its data, and one runner for all of them."""
