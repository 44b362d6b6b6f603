"""The methods, listed in `registry`; nothing is imported here, so that `methods.ltu` stays the package and not a function."""
