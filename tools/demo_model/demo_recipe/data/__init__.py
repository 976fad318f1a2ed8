"""The data, all of it composed by this package from its own lists with a fixed seed."""
