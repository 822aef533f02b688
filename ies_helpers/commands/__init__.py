"""The commands of `ies`, one module each: a thin layer over the functions of the package."""
