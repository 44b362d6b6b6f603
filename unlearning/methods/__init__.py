"""The methods, listed in `registry`. Nothing is imported here, so that `methods.ltu` is the package and not the function."""
