"""One experiment a file: its paper, its command, its flags, and the recipe that they make."""
