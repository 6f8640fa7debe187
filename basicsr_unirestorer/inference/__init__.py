"""From trained weights to restored pictures: bundle, expert bank, tiling, commands."""
